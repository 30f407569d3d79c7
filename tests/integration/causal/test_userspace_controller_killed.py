"""A controller that is killed in the middle of an experiment: nobody is delayed any more, and the target goes on."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from shaped_target import Shaped

from workbench.cli import main

CONTROLLER = """
import json, sys, time
from workbench.causal.points import resolve_points
from workbench.causal.regions import Finder, Region
from workbench.causal.userspace import UserspaceEngine
from workbench.collectors.modules import Modules
from workbench.objects.model import builtin

pid = int(sys.argv[1])
modules = Modules(pid)
points = [(one.path, one.offset, one.semaphore) for one in resolve_points(modules, ["progress"])]
engine = UserspaceEngine(builtin("causal"), pid, points, modules=modules)

def place(name):
    address = engine.loaded.globals[name].__array_interface__["data"][0]
    for line in open("/proc/self/maps"):
        span, _, offset, _, _, path, *_ = (line + " - -").split()
        low, high = (int(one, 16) for one in span.split("-"))
        if low <= address < high:
            return path, int(offset, 16) + address - low

engine.select(Finder().places([pid], Region("region_b")))
engine.begin(1.0)
fields = list(engine.loaded.globals["counters"].dtype.names)
print(json.dumps({"until": place("alive_until"), "counters": place("counters"), "fields": fields}), flush=True)
time.sleep(600)
"""


class Watched:
    """A word of shared memory that stays readable when the process that made it is gone."""

    def __init__(self, path: str, offset: int, words: int = 1) -> None:
        page = offset & -mmap.PAGESIZE
        with Path(path).open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert page < len(self._memory)
        self._at, self._words = offset, words

    @property
    def values(self) -> list[int]:
        return np.frombuffer(self._memory, np.uint64, self._words, self._at).tolist()  # type: ignore[no-any-return]


def test_the_target_runs_undelayed_when_the_controller_was_killed(tmp_path: Path) -> None:
    with Shaped("barrier", tmp_path, 60_000, 60_000, 20_000) as target:
        controller = subprocess.Popen(
            [sys.executable, "-c", CONTROLLER, str(target.pid)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert controller.stdout
            told = json.loads(controller.stdout.readline())
            until = Watched(*told["until"])
            counters = Watched(*told["counters"], len(told["fields"]))
            paid = told["fields"].index("paid")
            while not counters.values[paid]:
                target.make_rounds(1)
            os.kill(controller.pid, signal.SIGKILL)
        finally:
            controller.kill()
            controller.wait()
        last = until.values[0]
        while time.monotonic_ns() <= last:
            target.make_rounds(1)
        target.make_rounds(2)  # who was asleep then is not any more
        before = counters.values
        target.make_rounds(20)
        assert counters.values == before and until.values[0] == last
        assert main(["bpf", "gc"]) == 0
        target.make_rounds(5)
        namespace = Path(told["counters"][0]).parent.name
        assert namespace not in Path(f"/proc/{target.pid}/maps").read_text()
