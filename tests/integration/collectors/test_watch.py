"""Watchpoints on real programs, by BPF: exact counts, the accessing instruction, threads, forks, limits, turns."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from memory_sink import MemorySink
from watched import (
    attach,
    bias,
    compile_program,
    finish,
    run,
    seen,
    signed,
    symbols,
    wait,
)
from watched_programs import AGAIN, CHAIN, HOT, RANGE, SIMPLE, WAITING
from x86_cases import processor_flags, program, runnable

from workbench.collectors.base import Target
from workbench.collectors.registry import make
from workbench.collectors.watch import slots, watch_spec_for_array
from workbench.collectors.watch.freeze import frozen, threads
from workbench.collectors.watch.slots import free_slots
from workbench.errors import BadSpec, OutOfSlots, TargetGone, UnknownSymbol

pytestmark = pytest.mark.needs(
    "hardware breakpoint", "perf_event BPF", "ring buffer", "ptrace", "C compiler", "native core"
)

@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("watched")
    sources = {"simple": SIMPLE, "hot": HOT, "waiting": WAITING, "chain": CHAIN, "range": RANGE}
    return {name: compile_program(text, folder, name) for name, text in sources.items()}


@pytest.fixture
def waiting(programs: dict[str, Path]) -> Iterator[subprocess.Popen[bytes]]:
    yield from started(programs["waiting"])


def started(command: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.write(b"x")
    process.stdin.flush()


# -- what a hit says ------------------------------------------------------------------------------------------------


def test_every_write_with_its_instruction(programs: dict[str, Path]) -> None:
    found: dict[str, int] = {}
    got = run(
        [programs["simple"]],
        "watch:counter",
        before=lambda h: found.update(b=bias(h.pid, programs["simple"])),
    )
    hits = got.hits
    assert got.status == 0 and len(hits) == 60
    assert hits.exact.all() and set(hits["size"]) == {8}
    assert set(hits.address) == {found["b"] + symbols(programs["simple"])["counter"]}
    if platform.machine() == "x86_64":
        stores = hits[hits.access == "write"]
        assert len(stores) == 50 and set(stores.ip) == {
            found["b"] + symbols(programs["simple"])["store_here"]
        }
        assert (hits.access == "read-write").sum() == 10  # lock xadd
    assert hits.time.is_monotonic_increasing and (hits.pid == got.pid).all()
    assert set(hits.comm) == {"simple"} and set(hits.watch) == {"watch:counter"}
    assert not any(got.losses.values())
    assert not got.collectors[0].notes()["watch:counter"]["disarmed_by_budget"]
    assert got.windows.hits.tolist() == got.windows.recorded.tolist() == [60]
    cost = got.overhead.iloc[0]
    assert cost.hits == 60 and 500 < cost.cost_low <= cost.cost <= cost.cost_high
    assert cost.total == pytest.approx(60 * cost.cost)


def test_rwatch_reports_reads_only(programs: dict[str, Path]) -> None:
    got = run([programs["simple"]], "rwatch:counter", "watch:counter,access=rw")
    both = got.hits[got.hits.watch == "watch:counter"]
    assert both.access.value_counts().to_dict() == {"write": 50, "read": 20, "read-write": 10}
    reads = got.hits[got.hits.watch == "rwatch:counter"]
    assert reads.access.value_counts().to_dict() == {"read": 20, "read-write": 10}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 instructions")
def test_what_instructions_do_agrees_with_the_debug_registers(tmp_path: Path) -> None:
    """The processor is the oracle: a write watch traps exactly on what is decoded as a write, and at its address."""
    cases = runnable(processor_flags())
    assert len(cases) > 50
    binary = compile_program(program(cases), tmp_path, "cases.s", "-no-pie")
    got = run([binary], "watch:target", "watch:target,access=rw")
    assert got.status == 0 and got.hits.exact.all()
    places = symbols(binary)
    modes = [one.access for one in got.collectors]
    assert modes == ["w", "rw"]
    # Both watches have one label; a write traps in both, at the same time.
    for number, (text, access) in enumerate(cases):
        rows = got.hits[got.hits.ip == places[f"case_{number}"]]
        assert len(rows) == (1 if access == "read" else 2), text
        kinds = set(rows.access)
        assert access in kinds and kinds <= {access, "write"}, text
    assert len(got.hits) == sum(1 if access == "read" else 2 for _, access in cases)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 instructions")
def test_repeated_string_instruction(programs: dict[str, Path]) -> None:
    found: dict[str, int] = {}
    got = run(
        [programs["simple"], "r"], "watch:buffer,size=8",
        before=lambda h: found.update(b=bias(h.pid, programs["simple"])),
    )  # fmt: skip
    assert 1 <= len(got.hits) <= 8
    assert set(got.hits.ip) == {found["b"] + symbols(programs["simple"])["rep_here"]}
    assert set(got.hits.access) == {"write"} and got.hits.exact.all()


def test_values_before_and_after(programs: dict[str, Path]) -> None:
    hits = run([programs["simple"], "f"], "watch:counter,values=yes").hits
    parent = hits[hits.pid == hits.pid.iloc[0]]
    after = [*range(50), *range(50, 60), 1000]
    assert signed(parent.after).tolist() == after
    assert signed(parent.before).tolist() == [0, *after[:-1]]
    child = hits[hits.pid != hits.pid.iloc[0]]
    assert signed(child.before).tolist() == [1000, 2000]
    assert signed(child.after).tolist() == [2000, 2001]


def test_elements_members_and_odd_sizes(programs: dict[str, Path]) -> None:
    program = [programs["simple"]]
    got = run(program, "watch:table[3],values=yes", "watch:state.level,values=yes")
    rows = {one: got.hits[got.hits.watch == one] for one in set(got.hits.watch)}
    assert signed(rows["watch:table[3]"].after).tolist() == [1, 3]
    # A short at an odd address is two places of one byte; one store touches both.
    assert sorted(signed(rows["watch:state.level"].after).tolist()) == [0, 5]
    # The rest of the array, 16 bytes, are two places.
    rest = run(program, "watch:table+16,values=yes")
    assert rest.windows["size"].tolist() == [8, 8]
    assert signed(rest.hits.after).tolist() == [2]


def test_stacks_begin_with_the_accessing_instruction(programs: dict[str, Path]) -> None:
    got = run([programs["simple"]], "watch:counter,stacks=yes")
    for stack, ip in zip(got.hits["stack"], got.hits.ip, strict=True):
        addresses = got.sink.stacks[stack][1]
        assert addresses[0] == ip and len(addresses) >= 3


def test_the_kernel_writes_as_well(programs: dict[str, Path]) -> None:
    got = run([programs["simple"], "k"], "watch:buffer,size=8,values=yes")
    assert 1 <= len(got.hits) <= 8  # the kernel copies by bytes or by words
    assert all(ip >> 63 == 1 for ip in got.hits.ip)
    assert set(got.hits.access) == {"write"}
    assert int(got.hits.after.iloc[-1]).to_bytes(8, "little") == b"abcdefgh"
    without = run([programs["simple"], "k"], "watch:buffer,size=8,kernel=no")
    assert not len(without.hits)


# -- threads and processes ------------------------------------------------------------------------------------------


def test_new_threads_are_followed(programs: dict[str, Path]) -> None:
    hits = run([programs["simple"], "t"], "watch:counter").hits
    assert len(hits) == 460
    assert sorted(hits.groupby("tid").size()) == [60, 100, 100, 100, 100]


def test_threads_that_are_there_and_one_that_comes(waiting: subprocess.Popen[bytes]) -> None:
    sink = MemorySink()
    made = attach(["watch:counter,values=yes"], Target(waiting.pid, pids={waiting.pid}), sink)
    go(waiting)
    wait(made, lambda: waiting.poll() is not None)
    finish(made)
    hits = seen(sink, made, 0, waiting.pid).hits
    assert len(hits) == 400 and sorted(hits.groupby("tid").size()) == [100] * 4


@pytest.mark.parametrize("tries", [3, 0], ids=["running", "held"])
def test_threads_that_come_while_it_attaches_count_once(
    programs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    monkeypatch.setattr(slots, "_TRIES", tries)
    with subprocess.Popen(
        [programs["chain"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        sink = MemorySink()
        made = attach(
            ["watch:link_number,values=yes,hits=3000"],
            Target(process.pid, pids={process.pid}),
            sink,
        )
        wait(made, lambda: made[0].counters.events >= 300 or process.poll() is not None)
        go(process)
        wait(made, lambda: process.poll() is not None)
        finish(made)
        numbers = signed(sink.frame("watches").after)
        # Each thread stores its number once, in order: a second event on a thread would show it twice.
        assert len(numbers) >= 300 and (np.diff(numbers) == 1).all()


def test_a_held_process_stands_still_and_runs_on(programs: dict[str, Path]) -> None:
    with subprocess.Popen(
        [programs["chain"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        with frozen(process.pid) as tids:
            states = [
                Path(f"/proc/{process.pid}/task/{tid}/stat")
                .read_text()
                .rsplit(")", 1)[1]
                .split()[0]
                for tid in tids
            ]
            assert process.pid in tids and set(states) == {"t"}
            assert sorted(tids) == sorted(threads(process.pid))
        go(process)
        assert process.wait(20) == 0


def test_a_program_executed_later_has_no_watch(programs: dict[str, Path], tmp_path: Path) -> None:
    again = compile_program(AGAIN, tmp_path, "again", "-no-pie")
    hits = run([again, "first"], "watch:word,values=yes").hits
    assert signed(hits.after).tolist() == [1, 2]  # the same address after exec is another program's


def test_forked_children_only_if_followed(programs: dict[str, Path]) -> None:
    assert run([programs["simple"], "f"], "watch:counter").hits.pid.nunique() == 2
    alone = run([programs["simple"], "f"], "watch:counter", follow=False).hits
    assert alone.pid.nunique() == 1 and len(alone) == 61


def test_an_element_of_our_own_array() -> None:
    array = np.zeros(8)
    sink = MemorySink()
    made = attach(
        [f"watch:{watch_spec_for_array(array, 3)},values=yes"],
        Target(os.getpid(), pids={os.getpid()}),
        sink,
    )
    for value in range(20):
        array[3] = value
        array[4] = value
    finish(made)
    hits = sink.frame("watches")
    assert np.array(hits.after.tolist(), np.uint64).view(np.float64).tolist() == list(range(20))
    assert hits.exact.all() and set(hits.access) == {"write"} and (hits.pid == os.getpid()).all()
    assert free_slots(os.getpid()) == 4


# -- slots ----------------------------------------------------------------------------------------------------------


def test_a_fifth_watch_names_the_other_four(waiting: subprocess.Popen[bytes]) -> None:
    before = free_slots(waiting.pid)
    specs = [f"watch:counter+{n},size=1" for n in range(5)]
    with pytest.raises(OutOfSlots) as error:
        attach(specs, Target(waiting.pid, pids={waiting.pid}), MemorySink())
    assert all(spec.split(",")[0] in error.value.message for spec in specs)
    assert "0 of 4" in error.value.message and error.value.hint
    assert free_slots(waiting.pid) == before


def test_a_range_takes_the_slots_that_are_left(waiting: subprocess.Popen[bytes]) -> None:
    target = Target(waiting.pid, pids={waiting.pid})
    sink = MemorySink()
    made = attach(["watch:counter", "watch:counter,access=rw,size=4"], target, sink)
    try:
        assert free_slots(waiting.pid) == 2
        address = made[0].place.address
        with pytest.raises(OutOfSlots, match="3 hardware watchpoints"):
            attach([f"watch:{address + 1:#x}+7"], target, MemorySink())
        ranges = attach([f"watch:{address:#x}+64"], target, sink)
        assert free_slots(waiting.pid) == 0
        finish(ranges)
    finally:
        finish(made)
    assert free_slots(waiting.pid) == 4


def test_a_killed_recorder_leaves_no_watchpoint(waiting: subprocess.Popen[bytes]) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from watched import attach; from memory_sink import MemorySink; from workbench.collectors.base import Target\n"
        "import time; pid = int(sys.argv[1])\n"
        "made = attach(['watch:counter', 'watch:counter,access=rw'], Target(pid, pids={pid}), MemorySink())\n"
        "print('armed', flush=True); time.sleep(60)\n"
    )
    support = str(Path(__file__).parents[2] / "support")
    recorder = subprocess.Popen(
        [sys.executable, "-c", script, str(waiting.pid), support], stdout=subprocess.PIPE
    )
    assert recorder.stdout and recorder.stdout.readline() == b"armed\n"
    assert free_slots(waiting.pid) == 2
    recorder.send_signal(signal.SIGKILL)
    recorder.wait()
    recorder.stdout.close()
    assert free_slots(waiting.pid) == 4


# -- limits ---------------------------------------------------------------------------------------------------------


def test_the_budget_disarms_a_hot_loop(programs: dict[str, Path]) -> None:
    """20 million stores at a trap each would take minutes."""
    got = run([programs["hot"], "20000000"], "watch:hot,hits=500")
    assert got.status == 0 and len(got.hits) == 500
    assert got.collectors[0].notes()["watch:hot"]["disarmed_by_budget"]
    window = got.windows.iloc[0]
    assert window.recorded == 500 and window.hits == 500 + got.lost("hit budget spent")
    assert window.hits < 100_000 and window.armed < window.end - window.start


def test_a_rate_arms_again_and_again(programs: dict[str, Path]) -> None:
    got = run([programs["hot"], "1", "0.6"], "watch:hot,rate=200,hits=60")
    assert got.status == 0 and 20 < len(got.hits) <= 60
    seconds = got.hits.time // 100_000_000
    assert seconds.nunique() >= 2 and got.hits.groupby(seconds).size().max() <= 40
    assert got.windows.armed.sum() < (got.windows.end - got.windows.start).sum() / 2


def test_a_range_takes_turns_on_inherited_threads_as_well(programs: dict[str, Path]) -> None:
    with subprocess.Popen(
        [programs["range"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        sink = MemorySink()
        target = Target(process.pid, pids={process.pid})
        made = attach(["watch:range,slots=2,rotate=5,values=yes,hits=0"], target, sink)
        go(process)
        wait(made, lambda: len(sink.frame("watch_windows")) >= 70)
        go(process)
        wait(made, lambda: process.poll() is not None)
        finish(made)
        assert process.returncode == 0
    windows, hits = sink.frame("watch_windows"), sink.frame("watches")
    assert windows.address.nunique() == 32 and set(windows["size"]) == {8}
    assert windows.recorded.sum() == len(hits) > 70
    assert hits.address.nunique() > 16  # the storing thread came later, from a thread that is gone
    ordered = windows.sort_values(["address", "start"])
    same = ordered.address.eq(ordered.address.shift())
    assert (ordered.start[same] >= ordered.end.shift()[same]).all()  # never two slots on one place
    starts = windows.sort_values("start")
    for _, row in hits.sample(50, random_state=1).iterrows():
        at = starts[
            (starts.address == row.address) & (starts.start <= row.time) & (row.time <= starts.end)
        ]
        assert len(at) == 1


# -- errors ---------------------------------------------------------------------------------------------------------


def test_bad_targets(programs: dict[str, Path], waiting: subprocess.Popen[bytes]) -> None:
    target = Target(waiting.pid, pids={waiting.pid})
    with pytest.raises(UnknownSymbol, match="countr"):
        attach(["watch:countr"], target, MemorySink())
    with pytest.raises(UnknownSymbol, match="not mapped"):
        attach(["watch:0x1000"], target, MemorySink())
    address = bias(waiting.pid, programs["waiting"]) + symbols(programs["waiting"])["counter"]
    waiting.kill()
    os.waitid(os.P_PID, waiting.pid, os.WEXITED | os.WNOWAIT)  # dead, not yet reaped
    with pytest.raises((TargetGone, UnknownSymbol)):
        attach([f"watch:{address:#x}"], target, MemorySink())
    waiting.wait()
    with pytest.raises((TargetGone, UnknownSymbol)):
        attach([f"watch:{address:#x}"], target, MemorySink())
    with pytest.raises(BadSpec, match="whole machine"):
        attach(["watch:counter"], Target(None), MemorySink())


def test_finish_without_attach_is_harmless() -> None:
    one = make("watch:counter")
    one.detach()
    one.finish()
    assert one.drain() == 0 and one.wake_fds() == ()
