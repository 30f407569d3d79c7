"""Runs in a guest with sched_ext: scopes that are cgroups, and what must be left of them; prints what it saw as JSON.

Waits are for events, with limits; nothing here judges how long something took.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from workbench.cli import main
from workbench.objects.model import builtin
from workbench.sched import Scheduler, read_state
from workbench.sched.cgroups import MadeCgroup, Population, cgroup_of, mount_point
from workbench.sched.state import threads

FIFO = "example_fifo"
LIMIT = 60.0
WAITS = "import sys; print(1, flush=True); sys.stdin.read()"
# A process with a second thread that forks when it is told to.
FORKS = """
import os, sys, threading
stop = threading.Event(); threading.Thread(target=stop.wait, daemon=True).start()
print(1, flush=True)
for _ in sys.stdin:
    child = os.fork()
    if not child: sys.stdin.close(); stop.wait()
    print(child, flush=True)
os._exit(0)
"""
# Says where it is and what its policy is; leaves a process behind.
STRAY = """
import os, sys
if not os.fork():
    os.setsid(); os.close(0); os.close(1); os.close(2)
    import time; time.sleep(1000)
open(sys.argv[1], "w").write(open("/proc/self/cgroup").read() + str(os.sched_getscheduler(0)))
"""
HOLDS = """
import sys, time
from workbench.sched.cgroups import MadeCgroup
made = MadeCgroup(); made.enter(int(sys.argv[1])); (made.folder / "below").mkdir()
print(made.folder, flush=True); time.sleep(1000)
"""
EXT, OTHER, CLONE_INTO_CGROUP = 7, os.SCHED_OTHER, 0x200000000

seen: dict[str, object] = {}
faulthandler.dump_traceback_later(300, exit=True)  # of the guest's time


def until(what: Callable[[], object], why: str) -> None:
    end = time.monotonic() + LIMIT
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(why)
        time.sleep(0.02)


def python(text: str, *words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", text, *words], stdin=-1, stdout=-1, text=True
    )
    return process


def line(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip()


def policy(pid: int) -> int:
    return os.sched_getscheduler(pid)


def forked_into(folder: Path) -> int:
    """A child that is in a cgroup from its first moment, though its parent is not (clone3(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    arguments = (ctypes.c_uint64 * 11)()
    arguments[0], arguments[4], arguments[10] = CLONE_INTO_CGROUP, signal.SIGCHLD, descriptor
    libc = ctypes.CDLL(None)
    child = libc.syscall(435, arguments, ctypes.sizeof(arguments))
    if not child:
        os.closerange(0, 1024)  # what it holds of the scheduler, too
        while True:
            libc.pause()
    os.close(descriptor)
    return child


def followed() -> None:
    root = mount_point()
    outer, other = root / "outer", root / "other"
    (outer / "inner").mkdir(parents=True)
    other.mkdir()
    first, second, third = (python(FORKS) for _ in range(3))
    for one in (first, second, third):
        line(one)
    (outer / "cgroup.procs").write_text(str(first.pid))
    with Scheduler(builtin(FIFO)) as scheduler:
        seen["taken"] = scheduler.take_cgroup(outer) == [first.pid]
        seen["again"] = scheduler.take_cgroup(outer)
        (outer / "inner" / "cgroup.procs").write_text(str(second.pid))
        until(lambda: policy(second.pid) == EXT, "a process that enters is not taken")
        until(
            lambda: all(policy(t) == EXT for t in threads(second.pid)),
            "its threads are not",
        )
        (outer / "later").mkdir()
        third.stdin.write("\n"), third.stdin.flush()
        child = int(line(third))
        (outer / "later" / "cgroup.procs").write_text(str(child))
        until(lambda: policy(child) == EXT, "nor one that enters a new one below")
        seen["its parent"] = policy(third.pid)
        born = forked_into(outer / "inner")
        until(lambda: policy(born) == EXT, "nor one that is born there")
        second.stdin.write("\n"), second.stdin.flush()
        inherits = int(line(second))
        seen["a child"] = policy(inherits)
        (other / "cgroup.procs").write_text(str(second.pid))
        until(lambda: policy(second.pid) == OTHER, "one that leaves is not given back")
        seen["the child stays"] = policy(inherits)
        (outer / "cgroup.procs").write_text(str(second.pid))
        until(lambda: policy(second.pid) == EXT, "one that comes back is not taken again")
        (other / "cgroup.procs").write_text(str(inherits))
        until(lambda: policy(inherits) == OTHER, "a child that leaves is not given back")
        scheduler.take(third.pid)
        (outer / "cgroup.procs").write_text(str(third.pid))
        (other / "cgroup.procs").write_text(str(third.pid))
        (other / "cgroup.procs").write_text(str(first.pid))  # moves are told in order
        until(lambda: policy(first.pid) == OTHER, "the first is not given back")
        seen["one that was named"] = policy(third.pid)
    seen["after"] = [
        policy(pid) for pid in (first.pid, second.pid, third.pid, child, born, inherits)
    ]
    for pid in (child, born, inherits):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(born, 0)
    watch = Population(outer)
    seen["population"] = [watch.state]
    for one in (first, second, third):
        one.stdin.close(), one.wait(LIMIT)
    until(lambda: watch.state != "populated", "the cgroup does not empty")
    seen["population"].append(watch.state)
    for folder in (outer / "inner", outer / "later", outer, other):
        folder.rmdir()
    seen["population"].append(watch.state)
    watch.close()


def command_line() -> None:
    place = Path("/tmp/stray")
    words = [sys.executable, "-S", "-c", STRAY, str(place)]
    own = cgroup_of()
    with contextlib.redirect_stdout(io.StringIO()):
        status = main(["sched", "run", FIFO, "--scope", "cgroup", "--json", "--", *words])
    where, _, got = place.read_text().rpartition("\n")
    seen["run"] = [status, int(got), "/workbench-" in where]
    left = [
        int(one)
        for one in (own / "cgroup.procs").read_text().split()
        if b"/tmp/stray" in cmdline(one)
    ]
    seen["run: left behind"] = [
        len(left),
        [policy(one) for one in left],
        [str(p) for p in own.glob("workbench-*")],
    ]
    for one in left:
        os.kill(one, signal.SIGKILL)


def cmdline(pid: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def killed() -> None:
    target = python(WAITS)
    line(target)
    own = cgroup_of(target.pid)
    controller = python(HOLDS, str(target.pid))
    folder = Path(line(controller))
    seen["killed: inside"] = cgroup_of(target.pid) == folder
    controller.send_signal(signal.SIGKILL)
    controller.wait(LIMIT)
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink):
        main(["sched", "status", "--json"])
    seen["killed: removed"] = [json.loads(sink.getvalue())["cgroups_removed"], folder.exists()]
    seen["killed: target"] = cgroup_of(target.pid) == own
    target.communicate()
    made = MadeCgroup()
    seen["made"] = made.folder.is_dir()
    made.remove()
    made.remove()
    seen["made: removed"] = not made.folder.exists()


for part in (followed, command_line, killed):
    begun = time.monotonic()
    try:
        part()
    except Exception as error:
        seen[f"{part.__name__} failed"] = f"{type(error).__name__}: {error}"
    print(f"{part.__name__}: {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
seen["state"] = read_state().state
print("SEEN " + json.dumps(seen))
