"""`workbench bpf check` says where a program can be attached, and what loading would refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from bpf_output import Output

pytestmark = pytest.mark.needs("clang", "userspace JIT", "userspace maps")

BACKENDS = """
#include "workbench.h"
SEC("uprobe/libc:malloc") int function(void *ctx) { return 0; }
SEC("tp/syscalls/sys_enter_read") int reading(void *ctx) { return 0; }
SEC("syscall") int called(void *ctx) { return 0; }
SEC("kprobe/do_exit") int probe(void *ctx) { return 0; }
SEC("fentry/do_exit") int entry(void *ctx) { return 0; }
SEC("xdp") int packets(void *ctx) { return 2; }
SEC("tp/sched/sched_switch") int switches(void *ctx) { return 0; }
SEC("raw_tp/sched_switch") int raw(void *ctx) { return 0; }
#ifdef MORE
SEC("cgroup/sysctl") int knob(void *ctx) { return 1; }
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} small SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 30);
	__type(key, __u64);
	__type(value, char[1024]);
} large SEC(".maps");
SEC("uprobe") int looks(void *ctx)
{
	__u64 key = 1;
	__u32 zero = 0;
	return bpf_map_lookup_elem(&large, &key) && bpf_map_lookup_elem(&small, &zero);
}
#endif
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture
def bpf(capsys: pytest.CaptureFixture[str]) -> Output:
    return Output(capsys)


def test_check_names_the_backend_that_can_attach(bpf: Output, tmp_path: Path) -> None:
    source = tmp_path / "places.bpf.c"
    source.write_text(BACKENDS)
    rows = {one["name"]: one for one in bpf.json("check", source)["programs"]}
    both = {name for name, one in rows.items() if one["attach"]["backends"] == ["userspace", "kernel"]}
    assert both == {"function", "reading", "called"}
    assert all(one["accepted"] for one in rows.values())
    for name, text in (("probe", "kprobe"), ("entry", "fentry"), ("packets", "xdp"), ("raw", "sched_switch")):
        assert rows[name]["attach"]["backends"] == ["kernel"]
        assert text in rows[name]["attach"]["reason"] and "backend='kernel'" in rows[name]["attach"]["hint"]
    lines = bpf.of("check", source).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("switches"))
    assert "kernel only" in lines[at]
    assert lines[at + 1].startswith("  kernel backend only: tracepoint sched:sched_switch fires in the kernel")


def test_check_names_what_loading_would_refuse(bpf: Output, tmp_path: Path) -> None:
    source = tmp_path / "refused.bpf.c"
    source.write_text("#define MORE\n" + BACKENDS)
    document = bpf.json("check", source, status=1)
    rows = {one["name"]: one for one in document["programs"]}
    assert rows["knob"]["attach"]["backends"] == ["kernel"] and not rows["knob"]["accepted"]
    (large,) = document["maps_refused"]
    assert large["name"] == "large" and large["hint"]
    needs = large["reason"].partition(", /")[0]  # then comes the folder
    assert f"loading is refused: {needs}" in bpf.of("check", source, status=1)
    assert needs in bpf.of("run", source, "looks", status=3)
