"""map_victims.c from Python: children killed at an instruction, workers killed at random."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from workbench.native.build import compiler
from workbench.native.library import load
from workbench.runtime.maps import Map, Space

__all__ = ("QUEUE", "RING", "STACKS", "TRIE", "Worker", "killed_at_step", "killed_in_program", "victims")

QUEUE, TRIE, RING, STACKS = range(4)
_FUNCTIONS = (
    "wb_run_new", "wb_map_push", "wb_map_pop", "wb_map_peek", "wb_map_write", "wb_map_erase", "wb_map_read",
    "wb_ring_reserve", "wb_ring_commit", "wb_stack_id",
)  # fmt: skip


@cache
def victims() -> ctypes.CDLL:
    """The compiled map_victims.c."""
    folder = Path(mkdtemp(prefix="map-victims-"))
    library = folder / "victims.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(
        [compiler(), "-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(source)],
        check=True,
    )
    made = ctypes.CDLL(str(library))
    library.unlink()
    folder.rmdir()
    pointer = ctypes.c_void_p
    made.killed_at_step.argtypes = (
        *(pointer,) * 6, ctypes.c_uint64, pointer, pointer, ctypes.c_long, ctypes.c_long,
        pointer, ctypes.c_uint64,
    )  # fmt: skip
    made.start_worker.argtypes = (pointer, pointer, pointer, ctypes.c_int, ctypes.c_uint64, pointer)
    made.sealed.argtypes = (pointer,)
    return made


def _address(name: str) -> int:
    return int(ctypes.cast(getattr(load(), name), ctypes.c_void_p).value or 0)


def killed_at_step(
    space: Space, function: str, made: Map, a: Any, b: Any, flags: int, steps: int, warm: int = 0,
    warm_a: bytes | None = None, warm_b: bytes | None = None, since: tuple[int, int] | None = None,
) -> bool:  # fmt: skip
    """Kill a child at instruction `steps` of `function(run, map, a, b, flags)`; True when it was over before.

    Before that it does the same `warm` times, with `warm_a` and `warm_b` for `a` and `b` where they are given.
    `since`: an address that children share with this process, and bits; instructions count once one of them is set.
    """
    buffers = [ctypes.create_string_buffer(x, len(x)) if isinstance(x, bytes) else x for x in (a, b)]
    arguments = [ctypes.addressof(x) if isinstance(x, ctypes.Array) else x for x in buffers]
    over = victims().killed_at_step(
        _address("wb_run_new"), space.handle, _address(function), made.handle, *arguments, flags,
        warm_a, warm_b, warm, steps, *(since or (None, 0)),
    )  # fmt: skip
    assert over >= 0, "the child did not come to where it was to be killed"
    return bool(over)


def killed_in_program(space: Space, program: int, steps: int, warm: int = 0) -> bool:
    """Kill a child at instruction `steps` of a run of the `struct wb_program` at `program`, after `warm` whole runs."""
    made = victims()
    over = made.killed_at_step(
        _address("wb_run_new"), space.handle, ctypes.cast(made.run_program, ctypes.c_void_p), program,
        _address("wb_execute"), None, 0, None, None, warm, steps,
        None, 0,
    )  # fmt: skip
    assert over >= 0, "the child did not come to where it was to be killed"
    return bool(over)


class _Progress(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("done", "bad", "refused", "records"))


@dataclass
class Worker:
    """A process that works on a map until it is killed."""

    space: Space
    map: Map
    kind: int
    who: int

    def __post_init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.progress = _Progress.from_buffer(self._memory)
        table = (ctypes.c_void_p * len(_FUNCTIONS))(*map(_address, _FUNCTIONS))
        self.pid = victims().start_worker(
            table, self.space.handle, self.map.handle, self.kind, self.who, ctypes.addressof(self.progress)
        )
        assert self.pid > 0

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def reach(self, count: int) -> None:
        """Wait until it has done `count` operations more."""
        goal = self.progress.done + count
        while self.progress.done < goal:
            assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), "a worker died by itself"
            os.sched_yield()
