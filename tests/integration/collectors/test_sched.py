"""Off-CPU times of programs that sleep, wait for each other and compete in a known way."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from known_program import chains, known, record

from workbench.collectors.recorder import Recorder
from workbench.collectors.sched import state_names
from workbench.frames.recording import Recording
from workbench.kernel.loaded import load
from workbench.objects import model

pytestmark = pytest.mark.needs("perf_event BPF", "BTF tracepoint", "ptrace")


def left_in(recording: Recording, function: str) -> pd.DataFrame:
    """Rows whose user stack holds a function."""
    found = {stack for stack, chain in chains(recording).items() if function in chain}
    return recording.offcpu[recording.offcpu["stack"].isin(found)]


@pytest.mark.parametrize("company", [False, True], ids=["alone", "with another tool"])
def test_sleeper(tmp_path: Path, company: bool) -> None:
    with contextlib.ExitStack() as stack:
        if company:  # a second program at the tracepoint: the kernel then calls both by a function more
            other = stack.enter_context(load(model.builtin("sched"), programs=["off_switch"]))
            other.attach_tracing("off_switch")
        recording = record(tmp_path, "sched", "naps", 20, 10_000)
    everything = left_in(recording, "nap")
    # On a busy machine a thread may be preempted on its way to sleep, and the time is over before it sleeps.
    naps = everything[everything["state"] == "sleeping"]
    assert 17 <= len(naps) <= 20 and len(everything) >= 18
    assert everything["duration"].sum() >= 18 * 10_000_000
    assert naps["duration"].min() >= 9_000_000
    assert naps["duration"].median() < 20_000_000
    # A thread that is held up between leaving and its record may be woken in between: not known, and rare.
    assert (naps["runqueue"] < naps["duration"]).all() and (naps["runqueue"] >= 0).mean() > 0.9
    # The timer woke it: it runs in an interrupt, whatever thread that found on the CPU.
    assert (naps["waker_tid"] >= 0).mean() > 0.9
    assert (naps["waker_stack"] >= 0).mean() > 0.9
    assert naps["function"].str.contains("nanosleep").all()  # not the scheduler's own
    gaps = np.diff(naps["time"].to_numpy()) - naps["duration"].to_numpy()[:-1]
    assert (gaps > 0).all()  # `time` is when it left
    assert recording.lost == {}
    kernel = recording.stacks[recording.stacks["stack"].isin(naps["stack"])]
    innermost = set(kernel[kernel["depth"] == 0]["function"])
    assert not [name for name in innermost if "bpf" in name or "trace" in name]  # the tracepoint's are left out


def test_ping_pong_names_the_waker(tmp_path: Path) -> None:
    recorder = Recorder(
        ["sched"], output=tmp_path / "r", command=[known(), "pingpong", "200"], stdout=subprocess.PIPE
    )
    recorder.start()
    assert recorder._command_process is not None
    out = recorder._command_process.process.stdout
    assert out is not None
    answerer = json.loads(out.read())["answerer"]
    out.close()
    recording = recorder.result()
    pid = recording.manifest.pid
    known_chains = chains(recording)
    for waiting_in, waker, woken_by in (
        ("await_answer", answerer, "answer"),
        ("await_question", pid, "ask"),
    ):
        waits = left_in(recording, waiting_in)
        waits = waits[waits["state"] == "sleeping"]
        assert 150 < len(waits) <= 200
        mine = waits[waits["waker_tid"] == waker]
        assert len(mine) > 0.95 * len(waits)
        assert set(mine["waker_pid"]) == {pid}
        through = [woken_by in known_chains.get(stack, ()) for stack in mine["waker_stack"]]
        assert np.mean(through) > 0.95
    tids = left_in(recording, "await_question")["tid"]
    assert set(tids) == {answerer}


def test_preempted_threads_wait_in_the_run_queue(tmp_path: Path) -> None:
    recording = record(tmp_path, "sched", "spinners", 0.15)
    rows = recording.offcpu[recording.offcpu["state"] == "preempted"]
    rows = rows[rows["tid"] != recording.manifest.pid]
    assert rows["tid"].nunique() == 3
    assert (rows["runqueue"] == rows["duration"]).all()
    # Three threads on one CPU: while one runs, two wait.
    assert rows["runqueue"].sum() > 0.15e9 * 2
    assert (rows["waker_tid"] == -1).all() and (rows["waker_stack"] == -1).all()


def test_short_times_are_left_out_and_not_sent(tmp_path: Path) -> None:
    recording = record(tmp_path, "sched,least=3000", "naps", 20, 1000)
    assert len(left_in(recording, "nap")) < 20
    assert recording.offcpu["duration"].min() >= 3_000_000 if len(recording.offcpu) else True
    long = record(tmp_path / "long", "sched,least=3000,stacks=no,wakers=no", "naps", 10, 5000)
    rows = long.offcpu[long.offcpu["state"] == "sleeping"]
    assert 8 <= len(rows) <= 10 and len(long.offcpu) >= 10
    assert set(long.offcpu["stack"]) == {-1} == set(long.offcpu["waker_stack"])
    assert (rows["waker_tid"] >= 0).all()


@pytest.mark.parametrize("follow", [True, False])
def test_forks(tmp_path: Path, follow: bool) -> None:
    command = ["/bin/sh", "-c", f"{known()} naps 5 10000; {known()} naps 5 10000; true"]
    recording = Recorder(
        ["sched"], output=tmp_path / "r", command=command, follow=follow
    ).run()
    naps = left_in(recording, "nap")
    # Now and then a time is over before the thread gets to sleep.
    assert (len(naps) >= 8) if follow else (len(naps) == 0)
    assert naps["pid"].nunique() == (2 if follow else 0)
    assert recording.manifest.pid not in set(naps["pid"])


def test_threads_that_end_give_their_slots_back(tmp_path: Path) -> None:
    """Many more threads one after the other than can be off the CPU at the same time."""
    recording = record(tmp_path, "sched,slots=16,stacks=fp,wakers=no", "churn", 400)
    assert recording.lost == {}
    assert recording.offcpu["tid"].nunique() >= 200


def test_more_threads_than_slots_are_counted(tmp_path: Path) -> None:
    script = (
        "import threading, time\n"
        "made = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(30)]\n"
        "[t.start() for t in made]; [t.join() for t in made]\n"
    )
    recording = Recorder(
        ["sched,slots=8,stacks=no"], output=tmp_path / "r", command=[sys.executable, "-c", script]
    ).run()
    assert recording.lost["offcpu"] > 0
    assert set(recording.losses["cause"]) >= {"more threads than slots"}


def test_main_thread_that_ends_first(tmp_path: Path) -> None:
    """The process stays in scope as long as one of its threads lives."""
    script = (
        "import ctypes, threading, time\n"
        "def work():\n"
        "    for _ in range(20): time.sleep(0.005)\n"
        "    import os; os._exit(0)\n"
        "threading.Thread(target=work).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    recording = Recorder(
        ["sched,stacks=no"], output=tmp_path / "r", command=[sys.executable, "-c", script]
    ).run()
    rows = recording.offcpu
    worker = rows[(rows["tid"] != rows["pid"]) & (rows["duration"] > 4_900_000)]
    assert len(worker) >= 19


def test_names_of_states() -> None:
    # Values of include/linux/sched.h.
    states = np.array([0, 1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x402, 0x100, 0x2001], np.uint32)
    codes, names = state_names(states)
    assert [names[code] for code in codes] == [
        "preempted", "sleeping", "blocked", "stopped", "traced", "exiting", "exiting", "parked",
        "exiting", "idle", "other", "sleeping",
    ]  # fmt: skip
