"""Programs that their run-time budget ends are counted, at every kind of place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from probed_programs import running

import workbench as wb

pytestmark = pytest.mark.needs("clang", "ptrace")

# 128 Mi rounds are twice the budget.
SOURCE = """
#include "workbench.h"
struct registers { __u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di; };
struct sys_enter { __u64 common; __s64 nr; __u64 pid; };
__u64 begun, done;
static long once(__u32 number, void *sum) { *(__u64 *)sum += number; return 0; }
static int work(__u64 value)
{
	__u64 sum = 0;
	int i;
	begun++;
	if (value == 5)
		for (i = 0; i < 16; i++)
			bpf_loop(1 << 23, once, &sum, 0);
	done += 1 + (sum == 1);
	return 0;
}
SEC("uprobe") int entry(struct registers *ctx) { return work(-(__s32)ctx->di); }
SEC("uprobe") int beside(struct registers *ctx) { return 0; }
SEC("uretprobe") int back(struct registers *ctx) { return work((__s32)ctx->ax); }
SEC("tracepoint/syscalls/sys_enter_getpgid") int asked(struct sys_enter *ctx) { return work(ctx->pid); }
char LICENSE[] SEC("license") = "GPL";
"""
TARGET = """
import ctypes, sys
libc = ctypes.CDLL(None)
print("ready", flush=True)
while line := sys.stdin.readline():
    for i in range(int(line)):
        libc.abs(-i)
        libc.getpgid(i)
    print("called", flush=True)
"""


@pytest.mark.parametrize("programs", [["entry"], ["entry", "beside"], ["back"], ["asked"]])
def test_programs_that_the_budget_ends_are_counted(programs: list[str], tmp_path: Path) -> None:
    path = tmp_path / "endless.bpf.c"
    path.write_text(SOURCE)
    obj = wb.compile(path)
    with running([sys.executable, "-c", TARGET]) as target, obj.load("userspace") as loaded:
        assert target.read() == ["ready"]
        site = () if programs == ["asked"] else ("libc:abs",)
        link, *others = [loaded.attach(name, *site, pid=target.pid) for name in programs]
        assert target.ask("5") == ["called"]
        assert (link.hits, link.over_budget) == (5, 0)
        assert target.ask("10") == ["called"]
        assert (link.hits, link.missed, link.over_budget) == (15, 0, 1)
        assert (loaded.globals["begun"], loaded.globals["done"]) == (15, 14)
        assert [one.over_budget for one in others] == [0] * len(others)
        assert target.ask("5") == ["called"], "nothing is left of it"
        assert (link.hits, link.over_budget) == (20, 1)
        link.close()
