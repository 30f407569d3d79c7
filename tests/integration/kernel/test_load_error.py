"""What a refused load says: the map without room by name and size, and no advice to become what one is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import workbench as wb
import workbench.host.tries  # registers the trials
from workbench.errors import MissingCapability, NotPermitted
from workbench.host.trial import TRIALS
from workbench.kernel import libbpf
from workbench.kernel.load_error import doctor_row

HUGE = """
#include "workbench.h"
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1 << 30);
    __type(key, __u64);
    __type(value, __u64[63]);
} huge SEC(".maps");
SEC("raw_tp/sys_enter") int look(void *ctx)
{
    __u64 key = 1;
    return bpf_map_lookup_elem(&huge, &key) != 0;
}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.mark.needs("clang", "libbpf", "raw tracepoint")
def test_a_map_without_room_is_named(tmp_path: Path) -> None:
    (tmp_path / "huge.bpf.c").write_text(HUGE)
    obj = wb.compile(tmp_path / "huge.bpf.c")
    with pytest.raises(MissingCapability) as refused:
        obj.load("kernel")
    error = refused.value
    assert error.message.startswith("map 'huge' needs 524,288.0 MiB of the kernel's memory")
    assert "1,073,741,824 entries" in error.message and "map_sizes={'huge'" in error.hint
    assert len(error.message) < 250 and "\n" not in error.message
    assert "failed to create" in error.log
    with obj.load("kernel", map_sizes={"huge": 10_000}) as loaded:
        assert list(loaded.maps) == ["huge"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has every privilege")
def test_nobody_is_told_to_become_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    error = libbpf.errno_error("cannot load it", -1, doctor_row(["xdp", "fentry/vfs_read"]))
    if libbpf._has_bpf_privilege():
        assert isinstance(error, NotPermitted) and "run as root" not in error.hint
        assert "`workbench doctor fentry`" in error.hint
    monkeypatch.setattr(libbpf, "_has_bpf_privilege", lambda: False)
    assert "run as root" in libbpf.errno_error("cannot load it", -1).hint


def test_rows_of_the_doctor() -> None:
    for section in (
        "fexit.s/x",
        "?lsm/file_open",
        "tp_btf/sched_switch",
        "struct_ops/x",
        "kprobe/x",
    ):
        assert doctor_row(["uprobe", section]).strip("'") in TRIALS
    assert doctor_row(["uprobe", "xdp"]) == ""
