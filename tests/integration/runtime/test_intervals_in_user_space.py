"""Programs at intervals of wall-clock time: one object in the kernel and in user space, with a target and without."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from probed_programs import build, running

import workbench as wb
from workbench.errors import BadSpec
from workbench.objects.model import BpfObject

pytestmark = pytest.mark.needs("clang")

SOURCE = """
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }
	calls SEC(".maps");
__u64 ticks, period, cookie, before, least = -1;
__s64 stack;
SEC("perf_event") int tick(struct bpf_perf_event_data *ctx)
{
	__u64 now = bpf_ktime_get_ns();
	if (before && now - before < least)
		least = now - before;
	before = now;
	period = ctx->sample_period;
	cookie = bpf_get_attach_cookie(ctx);
	__sync_fetch_and_add(&ticks, 1);
	return 0;
}
SEC("uprobe") int called(void *ctx)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&calls, &zero);
	if (value)
		__sync_fetch_and_add(value, 1);
	return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""

TARGET = r"""
#include <stdio.h>
__attribute__((noinline)) long probed(long a) { asm volatile("nop; nop; nop; nop; nop; nop"); return a + 1; }
int main(void)
{
	char line[64];
	setvbuf(stdout, 0, _IONBF, 0);
	while (fgets(line, sizeof line, stdin))
		printf("%ld\n", probed(1));
	return 0;
}
"""


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> BpfObject:
    path = tmp_path_factory.mktemp("intervals") / "intervals.bpf.c"
    path.write_text(SOURCE)
    return wb.compile(path)


def wait(loaded: Any, ticks: int) -> None:
    end = time.monotonic() + 60
    while int(loaded.globals["ticks"][()]) < ticks:
        assert time.monotonic() < end, f"{loaded.globals['ticks']} of {ticks}"
        time.sleep(0.002)


@pytest.mark.parametrize(
    "backend", [pytest.param("kernel", marks=pytest.mark.needs("perf_event BPF")), "userspace"]
)
def test_it_runs_by_wall_clock(obj: BpfObject, backend: str) -> None:
    """This process sleeps meanwhile; the program's clock is the period's."""
    with obj.load(backend) as loaded:
        began = time.monotonic()
        link = loaded.attach("tick", "interval:ms:20", cookie=77)
        wait(loaded, 10)
        assert time.monotonic() - began > 0.19
        assert int(loaded.globals["period"][()]) == 20_000_000
        assert int(loaded.globals["cookie"][()]) == 77
        link.close()
        count = int(loaded.globals["ticks"][()])
        assert not link.attached
        time.sleep(0.1)
        assert int(loaded.globals["ticks"][()]) == count
        if backend == "userspace":
            assert link.hits == count and link.cost[0] == count and link.cost[1] > 0
        with loaded.attach("tick", "interval:hz:100"):
            wait(loaded, count + 3)
            assert int(loaded.globals["period"][()]) == 10_000_000


def test_late_periods_are_counted_not_made_up_for(obj: BpfObject) -> None:
    with obj.load("userspace") as loaded:
        began = time.monotonic_ns()
        link = loaded.attach("tick", "interval:us:10")
        wait(loaded, 2000)
        link.close()
        passed = (time.monotonic_ns() - began) // 10_000
        assert link.hits == int(loaded.globals["ticks"][()])
        assert 2000 <= link.hits + link.missed <= passed


@pytest.mark.needs("ptrace", "userspace probe")
def test_with_a_target_that_is_stopped_and_ends(obj: BpfObject, tmp_path: Path) -> None:
    path = build(tmp_path, "target", TARGET)
    with running([path]) as target, obj.load("userspace", pid=target.pid) as loaded:
        loaded.attach("called", f"{path}:probed")
        loaded.attach("tick", "interval:ms:5")
        wait(loaded, 3)
        assert target.ask() == ["2"]
        os.kill(target.pid, signal.SIGSTOP)
        wait(loaded, int(loaded.globals["ticks"][()]) + 3)
        os.kill(target.pid, signal.SIGCONT)
        assert target.ask() == ["2"]
        target.process.kill()
        target.process.wait()
        wait(loaded, int(loaded.globals["ticks"][()]) + 3)
        assert int(loaded.maps["calls"][0]) == 2


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("interval:ms:0", "0 ms"),
        ("interval:us:5", "an interval of 5000 ns"),
        ("interval:weeks:1", "is not a rate or a period"),
        ("interval:10", "is not a rate or a period"),
        ("often", "is not a rate or a period"),
        ("interval:ms:-3", "is not a rate or a period"),
        ("profile:s:9999999999", "profile:s"),
        ("profile:ms:1500", "less than one sample a second"),
    ],
)
def test_impossible_periods(obj: BpfObject, target: str, what: str) -> None:
    with obj.load("userspace") as loaded, pytest.raises(BadSpec, match=what):
        loaded.attach("tick", target)


def test_an_interval_belongs_to_no_process(obj: BpfObject) -> None:
    with (
        obj.load("userspace") as loaded,
        pytest.raises(BadSpec, match="belongs to no process"),
    ):
        loaded.attach("tick", "interval:ms:10", pid=os.getpid())


@pytest.mark.needs("ptrace", "userspace probe")
def test_a_period_of_cpu_time(obj: BpfObject) -> None:
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as busy:
        try:
            with obj.load("userspace", pid=busy.pid) as loaded:
                link = loaded.attach("tick", "profile:ms:20")
                assert link.period == 20_000_000
                wait(loaded, 3)
        finally:
            busy.kill()
