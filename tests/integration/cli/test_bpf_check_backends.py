"""`workbench bpf check` says where a program can be attached, and what loading would refuse."""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path

import pytest
from bpf_output import Output

from workbench.cli.bpf.text import under_way

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


THIRD = """
#include "workbench.h"
SEC("tp/syscalls/sys_enter_read") int third(__u64 *ctx) { return ctx[3]; }
char LICENSE[] SEC("license") = "GPL";
"""


SLEEPS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
static __u64 (*const bpf_delay)(__u64) = (void *)500;
__u64 slept;
SEC("uprobe") int sleeps(void *ctx) { slept = bpf_delay(1000); return 0; }
SEC("uprobe") int does_not(void *ctx) { return 0; }
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


def test_check_names_programs_that_no_kernel_takes(bpf: Output, tmp_path: Path) -> None:
    source = tmp_path / "sleeps.bpf.c"
    source.write_text(SLEEPS)
    rows = {one["name"]: one for one in bpf.json("check", source)["programs"]}
    assert rows["sleeps"]["accepted"] and rows["sleeps"]["attach"]["backends"] == ["userspace"]
    assert rows["does_not"]["attach"]["backends"] == ["userspace", "kernel"]
    assert "user space only" in bpf.of("check", source)


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


def test_run_refuses_a_context_that_ends_before_what_is_read(bpf: Output, tmp_path: Path) -> None:
    source = tmp_path / "third.bpf.c"
    source.write_text(THIRD)
    assert bpf.json("run", source, "third", "--hex", "00" * 24 + "07" + "00" * 7)["retval"] == 7
    assert bpf.json("run", source, "third")["retval"] == 0, "zeros, as many as it reads"
    text = bpf.of("run", source, "third", "--hex", "00", status=2)
    assert "a context of 1 bytes" in text and "give at least 32 bytes" in text


@pytest.mark.needs("libbpf", "tracepoint")
def test_run_says_what_the_kernel_cannot_test_run(bpf: Output, tmp_path: Path) -> None:
    source = tmp_path / "third.bpf.c"
    source.write_text(THIRD)
    text = bpf.of("run", source, "third", "--backend", "kernel", status=3)
    assert "cannot test-run 'third'" in text and "--backend userspace" in text


class Terminal(io.StringIO):
    """A terminal that tells when something was written on it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


def test_what_takes_long_is_said_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with under_way("verifying long", 0.0):
        assert terminal.written.wait(60)
    assert "verifying long ... " in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\033[K"), "the line is gone at the end"
    quiet = Terminal()
    monkeypatch.setattr(sys, "stderr", quiet)
    with under_way("verifying short", 3600.0):
        pass
    assert quiet.getvalue() == ""
