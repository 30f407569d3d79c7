"""Runs in a guest with sched_ext: what can go wrong while experiments run, one fault after the other; JSON of what was
left. Waits are for events, with limits; nothing here judges how long something took.
"""

from __future__ import annotations

import faulthandler
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from workbench.causal.checks import NONE
from workbench.causal.plan import Plan
from workbench.causal.regions import Region
from workbench.causal.session import profile
from workbench.errors import WorkbenchError
from workbench.objects.model import builtin
from workbench.sched import Scheduler, read_state
from workbench.sched.borrowed import give_back_left
from workbench.sched.cgroups import cgroup_of, mount_point
from workbench.sched.schedcoz import SchedCoz
from workbench.sched.state import policies

PROGRAM = sys.argv[1]
LIMIT = 120.0
LONGER = 0.6  # seconds of an experiment whose result is looked at: a guest may stand still for 40 ms
EXT, OTHER = 7, os.SCHED_OTHER
ENABLE, DISABLE = 0x2400, 0x2401  # PERF_EVENT_IOC_ of linux/perf_event.h
PASSED = 8  # where the program counts its rounds
# Experiments until it is killed; tells when a task is withheld.
CONTROLS = """
import sys, time
from workbench.causal.points import resolve_points
from workbench.causal.regions import Finder, Region
from workbench.collectors.modules import Modules
from workbench.objects.model import builtin
from workbench.sched.schedcoz import SchedCoz
pid = int(sys.argv[1])
points = [(p.path, p.offset, p.semaphore) for p in resolve_points(Modules(pid), ["progress"])]
engine = SchedCoz(builtin("schedcoz"), points)
engine.take(pid)
engine.select(Finder().places([pid], Region("region_a")))
engine.begin(0.9)
counters = engine.loaded.globals["counters"]
while int(counters["payments"]) < 3 or int(counters["payments"]) == int(counters["released"]):
    time.sleep(0.0003)
print("withheld", flush=True)
time.sleep(1000)
"""

seen: dict[str, object] = {}
faulthandler.dump_traceback_later(600, exit=True)  # of the guest's time


class Shape:
    """The workload of known gains, in a cgroup if one is given."""

    def __init__(
        self, shape: str, cgroup: Path | None = None, turns: tuple[int, int] = (70_000, 20_000)
    ) -> None:
        self.path = Path(f"/tmp/knobs-{shape}")
        values = np.zeros(512, np.uint64)
        values[:4] = *turns, 0, 8_400_000  # turns of both regions, of a third one, ns of a wait
        values.tofile(self.path)
        self.knobs = np.memmap(self.path, np.uint64, "r+")
        self.process = subprocess.Popen([PROGRAM, shape, str(self.path)])
        self.pid = self.process.pid
        if cgroup:
            (cgroup / "cgroup.procs").write_text(str(self.pid))
        self.goes_on()

    def goes_on(self) -> bool:
        """Rounds are done from now on."""
        before = int(self.knobs[PASSED])
        until(lambda: int(self.knobs[PASSED]) > before + 5, "the program does no rounds")
        return self.process.poll() is None

    def end(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT)


def until(what: Callable[[], object], why: str) -> None:
    end = time.monotonic() + LIMIT
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(why)
        time.sleep(0.02)


def experiment(
    meanwhile: Callable[[], object] | None = None,
    *,
    length: float = 0.3,
    at: int = 2,
    **where: object,
) -> dict[str, object]:
    """Two experiments, at 0 and 50 %; `meanwhile` is done in one of them. What the frames say, and what is left."""
    shutil.rmtree("/tmp/made", ignore_errors=True)
    begun, threads = 0, []

    def say(text: str) -> None:
        nonlocal begun
        if text.startswith("experiment ") and (begun := begun + 1) == at and meanwhile:
            threads.append(threading.Timer(length / 2, meanwhile))
            threads[0].start()

    plan = Plan((Region("region_a"),), speedups=(0.0, 0.5), rounds=1, shortest=length)
    recording = profile(
        ["progress"], ["region_a"], output="/tmp/made", plan=plan, checks=NONE, say=say, **where
    )
    for thread in threads:
        thread.join()
    profiled = recording.frame("causal_profile")
    change = profiled.loc[profiled.speedup == 0.5, "change"].tolist()
    return {
        "reasons": recording.frame("experiments").sort_values("number")["reason"].astype(str).tolist(),
        "status": recording.status, "change": change, "state": read_state().state,
    }  # fmt: skip


def cgroups() -> None:
    """All of it in a cgroup, which then empties and is removed; and in one that is made for a command."""
    box = mount_point() / "box"
    for folder in (box, box / "inner"):
        folder.mkdir()
    shape = Shape("serial", box / "inner")
    now = time.time()
    # In the middle of an experiment the time of day is set forward by a day.
    seen["cgroup"] = experiment(
        lambda: time.clock_settime(time.CLOCK_REALTIME, now + 86400), scope=f"cgroup:{box}", length=LONGER
    )
    time.clock_settime(time.CLOCK_REALTIME, now)
    seen["cgroup: policies"] = sorted(set(policies(shape.pid).values()))

    def remove() -> None:
        shape.end()
        until(lambda: "populated 0" in (box / "cgroup.events").read_text(), "it does not empty")
        (box / "inner").rmdir()
        box.rmdir()

    seen["removed"] = experiment(remove, scope=f"cgroup:{box}")
    seen["removed: is gone"] = not box.exists()
    own = cgroup_of()
    words = [PROGRAM, "serial", str(shape.path)]
    seen["made"] = experiment(scope="cgroup", command=words, length=LONGER)
    seen["made: left"] = [one.name for one in own.glob("workbench-*")]


def target_exits() -> None:
    shape = Shape("serial")
    seen["exited"] = experiment(shape.end, pid=shape.pid)


def stands_still() -> None:
    """For a fifth of a second no CPU takes a sample, as when a machine is suspended."""
    shape = Shape("serial")

    def pause() -> None:
        events = [
            int(one.name)
            for one in Path("/proc/self/fd").iterdir()
            if "perf_event" in str(one.resolve())
        ]
        for request in (DISABLE, ENABLE):
            for event in events:
                fcntl.ioctl(event, request, 0)
            time.sleep(0.2)

    seen["still"] = experiment(pause, length=0.6, pid=shape.pid)
    shape.end()


def killed() -> None:
    """SIGKILL of the controller while a task is withheld: one that slept while another was in the region."""
    shape = Shape("timer")
    words = [sys.executable, "-S", "-c", CONTROLS, str(shape.pid)]
    controller = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    seen["killed: withheld"] = controller.stdout.readline().strip()
    seen["killed: state before"] = read_state().state
    controller.send_signal(signal.SIGKILL)
    controller.wait(LIMIT)
    until(lambda: not read_state().enabled, "the scheduler of a killed controller stays")
    seen["killed: goes on"] = shape.goes_on()
    give_back_left()
    seen["killed: policies"] = sorted(set(policies(shape.pid).values()))
    shape.end()


def stalled() -> None:
    """A scheduler that loses tasks: a debt of a thousand seconds, which the kernel's watchdog does not wait for."""
    begin = SchedCoz.begin

    def losing(self: SchedCoz, speedup: float, **options: int) -> None:
        begin(self, speedup, **options)
        self.loaded.globals["global_clock"][()] += 10**12

    shape = Shape("join", turns=(70_000, 50_000))
    SchedCoz.begin = losing
    try:
        seen["stalled"] = experiment(length=15, pid=shape.pid)
    finally:
        SchedCoz.begin = begin
    seen["stalled: goes on"] = shape.goes_on()
    seen["stalled: policies"] = sorted(set(policies(shape.pid).values()))
    shape.end()


def others() -> None:
    """Another scheduler is loaded."""
    shape = Shape("serial")
    with Scheduler(builtin("example_fifo")):
        try:
            experiment(pid=shape.pid)
        except WorkbenchError as error:
            seen["another"] = f"{error.code}: {error}"
        seen["another: state"] = read_state().name
    shape.end()


for part in (cgroups, target_exits, stands_still, killed, stalled, others):
    begun = time.monotonic()
    try:
        part()
    except Exception as error:
        seen[f"{part.__name__} failed"] = f"{type(error).__name__}: {error}"
    print(f"{part.__name__}: {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
print("SEEN " + json.dumps(seen))
