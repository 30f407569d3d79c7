"""The life of a recording: every way to begin and to end it, with nothing lost and nothing left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from known_program import known, record, waiting
from left_behind import Left, held, links_in_the_kernel, state_of, wait_until

import workbench as wb
from workbench.collectors.recorder import Recorder
from workbench.errors import BadSpec, TargetGone, WorkbenchError

pytestmark = pytest.mark.needs("perf_event BPF", "raw tracepoint", "ptrace")
ALL = ["cpu:999", "sched", "syscalls", "pages"]


@pytest.fixture
def patient() -> Iterator[subprocess.Popen[str]]:
    with waiting("patient") as process:
        yield process


def test_stop_from_another_thread(tmp_path: Path) -> None:
    with waiting("threads", 60) as process:
        recorder = Recorder(ALL, output=tmp_path / "r", pid=process.pid).start()
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        wait_until(lambda: recorder.state().collectors[0].events > 100)
        threading.Thread(target=recorder.stop).start()
        recording = recorder.result()
        assert process.poll() is None
    assert recording.status == "complete"
    assert len(recording.samples) > 100 and len(recording.offcpu) and len(recording.faults)
    assert recording.manifest.notes["ended_by"] == "stopped"
    recorder.stop()  # as often as one likes


def test_time_ends_the_recording_and_the_command(tmp_path: Path) -> None:
    recorder = Recorder(
        ["cpu:999"], output=tmp_path / "r", command=[known(), "burn", "60"], seconds=0.3
    )
    recording = recorder.run()
    assert recording.status == "complete" and recorder.exit_status == -signal.SIGTERM
    assert recording.manifest.notes["ended_by"] == "0.3 seconds were over"
    assert not Path(f"/proc/{recording.manifest.pid}").exists()
    assert len(recording.samples) > 10


def test_time_ends_the_recording_of_a_process_that_goes_on(tmp_path: Path) -> None:
    with waiting("patient") as process:
        recording = record(tmp_path, ALL, pid=process.pid, seconds=0.2)
        assert recording.status == "complete" and process.poll() is None
        assert process.communicate("go\n")[0] == "done\n" and process.returncode == 0


def test_command_that_is_stopped_still_ends(tmp_path: Path) -> None:
    recorder = Recorder(["cpu:99"], output=tmp_path / "r", command=[known(), "stops"]).start()
    pid = recorder.pid
    assert pid is not None
    wait_until(lambda: state_of(pid) == "T")
    recorder.stop()
    began = time.monotonic()
    recorder.result()
    assert recorder.exit_status == -signal.SIGTERM and time.monotonic() - began < 4


def test_command_that_stops_itself_goes_on_where_it_was(tmp_path: Path) -> None:
    recorder = Recorder(["cpu:999"], output=tmp_path / "r", command=[known(), "stops"]).start()
    pid = recorder.pid
    assert pid is not None
    wait_until(lambda: state_of(pid) == "T")
    os.kill(pid, signal.SIGCONT)
    recording = recorder.result()
    assert recorder.exit_status == 6 and len(recording.samples) > 20


def test_command_with_its_own_signal_handlers(tmp_path: Path) -> None:
    recorder = Recorder(
        ["cpu:99"], output=tmp_path / "r", command=[known(), "handles"], stdout=subprocess.PIPE
    ).start()
    assert recorder._command_process is not None
    out = recorder._command_process.process.stdout
    assert out is not None
    with out:
        assert out.readline() == b"ready\n"
    assert recorder.pid is not None
    os.kill(recorder.pid, signal.SIGTERM)
    recorder.result()
    assert recorder.exit_status == 40 + signal.SIGTERM


def test_command_that_leaves_a_daemon(tmp_path: Path) -> None:
    """The recording ends with the command; what it left runs on unharmed."""
    out = tmp_path / "out"
    with out.open("w") as sink:
        recorder = Recorder(
            ["cpu:999"], output=tmp_path / "r", command=[known(), "daemon", "0.3"], stdout=sink
        )
        recorder.run()
    assert recorder.exit_status == 5
    wait_until(lambda: "daemon" in out.read_text())


def test_interrupt_of_the_thread_that_waits(tmp_path: Path) -> None:
    recorder = Recorder(["cpu:999"], output=tmp_path / "r", command=[known(), "burn", "60"])
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_until(lambda: recorder.state().phase == "recording")
        wait_until(lambda: recorder.state().collectors[0].events > 50)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        recorder.run()
    assert recorder.recording.status == "interrupted"
    assert recorder.recording.manifest.reason == "interrupted by the user"
    assert len(recorder.recording.samples) > 50


def test_stop_while_it_attaches(tmp_path: Path) -> None:
    """A stop that comes early is not forgotten."""
    recorder = Recorder(["cpu:99"], output=tmp_path / "r", pid=os.getpid())
    recorder.stop()
    recorder.start()
    recording = recorder.result()
    assert recording.status == "complete" and recorder.state().phase == "done"


def test_recorder_of_another_thread(tmp_path: Path) -> None:
    """Started in a thread that is not the main one, which is gone when the recording ends."""
    made: list[Recorder] = []

    def start() -> None:
        made.append(Recorder(ALL, output=tmp_path / "r", command=[known(), "burn", "0.2"]).start())

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    recording = made[0].result()
    assert made[0].exit_status == 0 and len(recording.samples) > 150


def test_two_recorders_on_one_process(tmp_path: Path) -> None:
    with waiting("threads", 0.2) as process:
        both = [
            Recorder(ALL, output=tmp_path / str(number), pid=process.pid).start()
            for number in range(2)
        ]
        process.communicate("go\n")
        recordings = [one.result() for one in both]
    for recording in recordings:
        assert recording.status == "complete"
        assert 2 * 0.2 * 999 * 0.9 < len(recording.samples) < 2 * 0.2 * 999 * 1.15
    first, second = (
        one.syscalls.groupby("syscall", observed=True)["count"].sum() for one in recordings
    )
    # They began one after the other, while the program waited in a read.
    first, second = (one.drop("read", errors="ignore") for one in (first, second))
    assert dict(first) == dict(second) and len(first) > 3


def test_two_recorders_to_one_folder(tmp_path: Path) -> None:
    with (
        Recorder(["cpu:99"], output=tmp_path / "r", pid=os.getpid()) as recorder,
        pytest.raises(BadSpec, match="another recorder is writing"),
    ):
        Recorder(["cpu:99"], output=tmp_path / "r", pid=os.getpid()).start()
    assert recorder.recording.status == "complete"


def test_own_process_without_the_recorder_itself(tmp_path: Path) -> None:
    def work() -> int:
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            sum(range(1000))
        return threading.get_native_id()

    with wb.record(ALL, output=tmp_path / "r") as recorder:
        names = {
            (task / "comm").read_text().strip(): int(task.name)
            for task in Path("/proc/self/task").iterdir()
        }
        worker = work()
    recording = recorder.recording
    own = names["wb-recorder"]
    for frame in (recording.samples, recording.offcpu, recording.faults):
        assert own not in set(frame["tid"])
    assert set(recording.samples["pid"]) == {os.getpid()}
    assert (recording.samples["tid"] == worker).sum() > 250
    # Its system calls are not counted either; nobody else here waits like this.
    assert not {"epoll_wait", "epoll_pwait"} & set(recording.syscalls["syscall"])


def test_script_that_ends_without_stopping(tmp_path: Path) -> None:
    """What was recorded is written when the program ends."""
    script = (
        "import sys, time, workbench as wb\n"
        "wb.record('cpu:999', output=sys.argv[1]).start()\n"
        "end = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "r"], check=True, timeout=60)
    recording = wb.load(tmp_path / "r")
    assert recording.status == "complete" and len(recording.samples) > 250
    assert recording.manifest.notes["ended_by"] == "the recording process ended"


def test_child_of_the_recording_process_holds_no_probe(tmp_path: Path) -> None:
    """A process that is forked while recording inherits descriptors; they must not keep probes alive."""
    recorder = Recorder(["syscalls", "cpu:99"], output=tmp_path / "r", pid=os.getpid()).start()
    links = held("link_id")
    assert len(links) >= 4 and links <= links_in_the_kernel()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        recorder.stop()
        assert recorder.result().status == "complete"
        wait_until(lambda: not links & links_in_the_kernel())
        assert state_of(child) == "S"
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)


@pytest.mark.parametrize("collect", ALL)
def test_many_recordings_leave_nothing(
    tmp_path: Path, collect: str, request: pytest.FixtureRequest
) -> None:
    def once(number: int) -> None:
        recorder = Recorder([collect], output=tmp_path / str(number), pid=process.pid).start()
        recorder.stop()
        recorder.result()

    process = request.getfixturevalue("patient")
    once(0)
    gc.collect()
    left = Left()
    areas = Path("/proc/self/maps").read_text().count("bpf")
    for number in range(1, 6):
        once(number)
    left.nothing()
    assert Path("/proc/self/maps").read_text().count("bpf") <= areas


@pytest.mark.parametrize("collect", ALL)
def test_failed_start_leaves_nothing(tmp_path: Path, collect: str) -> None:
    """The second collector cannot attach: the first one goes as well, and the command with it."""
    left = Left()
    recorder = Recorder(
        [collect, "uprobe:no_such_function_anywhere"],
        output=tmp_path / "r",
        command=[known(), "burn", "60"],
    )
    with pytest.raises(WorkbenchError) as error:
        recorder.start()
    assert "no_such_function_anywhere" in error.value.message and error.value.hint
    assert recorder.pid is not None and not Path(f"/proc/{recorder.pid}").exists()
    assert list(tmp_path.iterdir()) == []
    left.nothing()
    with pytest.raises(BadSpec, match="started already"):
        recorder.start()


def test_failed_start_in_a_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(TargetGone):
        wb.record("cpu", pid=gone()).start()
    assert list(tmp_path.iterdir()) == []


def gone() -> int:
    """The id of a process that is no more."""
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


def test_process_that_exits_while_it_is_attached(tmp_path: Path) -> None:
    """Whichever collector it is: it must not wait for the end of a process that has ended."""
    left = Left()
    with waiting("patient") as process:

        class Killer:
            name, frames = "killer", ()
            from workbench.collectors.base import Counters

            counters = Counters()

            def attach(self, target: object, sink: object) -> None:
                process.kill()
                process.wait()

            def attach_process(self, pid: int) -> None: ...
            def wake_fds(self) -> tuple[int, ...]:
                return ()

            def drain(self) -> int:
                return 0

            def detach(self) -> None: ...
            def finish(self) -> None: ...

        for others in (["cpu:99"], ["syscalls"], ["sched"], ["pages"]):
            recorder = Recorder([Killer(), *others], output=tmp_path / "r", pid=process.pid)
            with pytest.raises(TargetGone) as error:
                recorder.start()
            assert str(process.pid) in error.value.message and error.value.hint
    left.nothing()
    assert list(tmp_path.iterdir()) == []


def test_collector_that_fails_costs_the_others_nothing(tmp_path: Path) -> None:
    from workbench.collectors.cpu import CpuCollector

    class Failing(CpuCollector):
        def drain(self) -> int:
            if self.counters.events > 20:
                raise RuntimeError("a mistake of the collector")
            return super().drain()

    left = Left()
    recorder = Recorder(
        ["syscalls", Failing(999), "sched"], output=tmp_path / "r", command=[known(), "burn", "60"]
    ).start()
    with pytest.raises(RuntimeError, match="a mistake"):
        recorder.result()
    recording = recorder.recording
    assert (
        recording.status == "failed" and "a mistake of the collector" in recording.manifest.reason
    )
    assert len(recording.samples) > 20 and len(recording.syscalls) and len(recording.offcpu)
    left.nothing()


def test_limit_of_open_files_is_borrowed(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = min(512, before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        out = tmp_path / "out"
        with Recorder(["cpu:99"], output=tmp_path / "a", pid=os.getpid()), out.open("w") as sink:
            Recorder(
                ["cpu:99"], output=tmp_path / "b", command=["sh", "-c", "ulimit -Sn"], stdout=sink
            ).run()
        assert out.read_text().split() == [str(soft)]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_wait_for_what_never_began(tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match="not started"):
        Recorder(["cpu"], output=tmp_path / "r", pid=1).result()


def test_fork_storm_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Thousands of processes a second; the recording still ends at its time and knows them all."""
    storm = tmp_path / "storm.c"
    storm.write_text(
        "#include <sys/wait.h>\n#include <unistd.h>\n#include <sys/prctl.h>\n#include <signal.h>\n"
        "int main(void) { prctl(PR_SET_PDEATHSIG, SIGKILL);\n"
        "for (int n = 0; n < 3000; n++) { int p = vfork(); if (!p) _exit(0); waitpid(p, 0, 0); } return 0; }\n"
    )
    from known_program import compiled

    recorder = Recorder(
        ["cpu:999", "syscalls"], output=tmp_path / "r", command=[compiled(storm), "x"]
    )
    recording = recorder.run()
    life = recording.processes
    assert (life["event"] == "fork").sum() == 3000
    assert life[life["event"] == "exit"]["pid"].nunique() == 3001
    assert recording.lost == {}
    assert int(recording.syscalls.query("syscall == 'vfork'")["count"].sum()) == 3000


def test_a_process_that_records_itself_does_not_record_its_own_attaching(tmp_path: Path) -> None:
    with Recorder(["cpu:4999", "syscalls"], output=tmp_path / "r", pid=os.getpid()) as recorder:
        began = time.monotonic_ns()
        end = time.process_time() + 0.2
        while time.process_time() < end:
            os.getppid()
    recording = recorder.recording
    samples = recording.samples
    assert len(samples) > 300 and (samples["time"] < began).mean() < 0.05
    counts = recording.syscalls.groupby("syscall", observed=True)["count"].sum()
    assert counts["getppid"] > 1000
    # What attaching and draining take (bpf, perf_event_open, ioctl, openat, read, mmap ...) is not there. What two
    # threads of one interpreter take to hand over its lock is: as many futex calls as the scheduler makes of it.
    own = {"getppid", "clock_gettime", "futex"}
    assert counts[[name for name in counts.index if name not in own]].sum() < 100
    assert not {"bpf", "perf_event_open", "ioctl", "openat"} & set(counts.index)
