"""`obj.load("kernel").attach(program, target)`: the section says the kind of place, the target which one."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

import workbench as wb
from workbench.errors import BadSpec
from workbench.objects.model import BpfObject

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 4);
    __type(key, __u32);
    __type(value, __u64);
} counts SEC(".maps");
static __always_inline int add(__u32 slot, __u64 n)
{
    __u64 *value = bpf_map_lookup_elem(&counts, &slot);
    if (value)
        __sync_fetch_and_add(value, n);
    return 0;
}
SEC("uprobe") int called(void *ctx) { return add(0, bpf_get_attach_cookie(ctx)); }
SEC("uretprobe") int returned(void *ctx) { return add(1, 1); }
SEC("perf_event") int sampled(void *ctx) { return add(2, 1); }
SEC("uprobe.multi") int many(void *ctx) { return add(3, 1); }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> BpfObject:
    path = tmp_path_factory.mktemp("attach") / "count.bpf.c"
    path.write_text(SOURCE)
    return wb.compile(path)


@pytest.mark.needs("uprobe")
def test_functions_by_name_and_pattern(obj: BpfObject) -> None:
    libc = ctypes.CDLL(None)
    with obj.load("kernel") as loaded:
        assert loaded.backend == "kernel" and loaded.why
        one = loaded.attach("called", "libc:labs", pid=os.getpid(), cookie=7)
        loaded.attach("returned", "libc:labs", pid=os.getpid())
        loaded.attach("many", "libc:l[a]bs", pid=os.getpid())
        for _ in range(5):
            libc.labs(-3)
        assert [loaded.maps["counts"][i] for i in (0, 1, 3)] == [35, 5, 5]
        one.close()
        libc.labs(-3)
        assert [loaded.maps["counts"][i] for i in (0, 1)] == [35, 6]
        with pytest.raises(BadSpec, match="needs a function"):
            loaded.attach("called", pid=os.getpid())
        with pytest.raises(BadSpec, match="programs: "):
            loaded.attach("nothing", "libc:labs")


@pytest.mark.needs("perf_event BPF")
def test_sampling_follows_later_threads(obj: BpfObject) -> None:
    script = (
        "import threading, time\n"
        "input()\n"
        "def burn():\n"
        "    while time.thread_time() < 0.5: pass\n"
        "t = threading.Thread(target=burn); t.start(); t.join()\n"
    )
    with (
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, text=True) as process,
        obj.load("kernel") as loaded,
    ):
        link = loaded.attach("sampled", "999", pid=process.pid)
        process.communicate("\n")
        assert loaded.maps["counts"][2] > 100
        link.close()
        assert not link.attached
    with obj.load("kernel") as loaded, pytest.raises(BadSpec, match="not a rate"):
        loaded.attach("sampled", "often")


def test_backends_are_named(obj: BpfObject) -> None:
    with pytest.raises(BadSpec, match="no backend"):
        obj.load("cloud")


STACKS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
    __uint(type, BPF_MAP_TYPE_STACK_TRACE);
    __uint(max_entries, 100);
    __uint(key_size, 4);
    __uint(value_size, 127 * 8);
} stacks SEC(".maps");
long last;
SEC("uprobe") int called(void *ctx) { last = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK); return 0; }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.mark.needs("uprobe")
def test_stacks_of_a_map(tmp_path: Path) -> None:
    path = tmp_path / "stacks.bpf.c"
    path.write_text(STACKS)
    libc = ctypes.CDLL(None)
    with wb.compile(path).load("kernel") as loaded:
        assert "stacks" in repr(loaded)
        loaded.attach("called", "libc:labs", pid=os.getpid())
        libc.labs(-3)
        number = int(loaded.globals["last"][()])
        stack = loaded.maps["stacks"].stack(number)
        assert len(stack) and stack[0] == ctypes.cast(libc.labs, ctypes.c_void_p).value
        with pytest.raises(KeyError):
            loaded.maps["stacks"].stack((number + 1) % 100)
