"""Start the processes of a demonstration, bring them to work, and end them all."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from workbench.causal.demonstrations.model import CLIENT
from workbench.collectors.target import descendants
from workbench.errors import MissingCapability, RunFailed

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from numpy.typing import NDArray

    from workbench.causal.demonstrations.model import Demonstration, Place, Process

__all__ = ("KNOBS", "Running", "write_knobs")

KNOBS = 512
_PATIENCE = 120.0  # seconds until a server accepts connections; guests on busy hosts are slow
_LIMITS = {"memory.max": str(512 << 20), "pids.max": "256", "cpu.weight": "100"}


def write_knobs(path: Path, knobs: dict[int, int]) -> None:
    """Make the file of numbers."""
    values = np.zeros(KNOBS, np.uint64)
    for number, value in knobs.items():
        values[number] = value
    values.tofile(path)


class Running:
    """A demonstration at work, until `close`; a context manager.

    Attributes
    ----------
    cgroup : Path or None
        Where its processes are, if it has one of its own.

    Raises
    ------
    MissingCapability
        A program is not there.
    RunFailed
        A process ended, or did not begin to serve.
    """

    def __init__(self, what: Demonstration, place: Place) -> None:
        self.what, self.place = what, place
        self.cgroup: Path | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        write_knobs(place.knobs, dict(what.knobs))
        self._knobs: NDArray[np.uint64] = np.memmap(place.knobs, np.uint64, "r+", shape=(KNOBS,))
        with ExitStack() as stack:
            if what.prepare:
                what.prepare(place)
            if what.cgroup:
                self.cgroup = _cgroup(stack)
            stack.callback(self._end)
            self._start_all()
            self._keep = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all of it."""
        self._keep.close()

    def pid(self, name: str) -> int:
        """Process of this name."""
        return self._processes[name].pid

    def pids(self) -> list[int]:
        """All processes and what they forked."""
        roots = {process.pid for process in self._processes.values()}
        return sorted(roots | set(descendants(roots)))

    def turn(self, knobs: dict[int, int]) -> None:
        """Set these knobs, and all others to what they are under load."""
        for number, value in {**self.what.knobs, **knobs}.items():
            self._knobs[number] = value

    def check(self) -> None:
        """Raise RunFailed if a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                said = self._errors(name).read_text(errors="replace").strip().splitlines()[-3:]
                raise RunFailed(
                    f"{name} of the demonstration {self.what.name} ended ({process.returncode})",
                    " ".join(said) or "it said nothing",
                )

    def _errors(self, name: str) -> Path:
        return self.place.folder / f"{name}.err"

    def _start_all(self) -> None:
        pipes = {one.feeds: os.pipe() for one in self.what.processes if one.feeds}
        try:
            for one in self.what.processes:
                self._start(one, pipes)
        finally:
            for ends in pipes.values():
                for end in ends:
                    os.close(end)
        time.sleep(0.2)
        self.check()

    def _start(self, one: Process, pipes: dict[str, tuple[int, int]]) -> None:
        command = list(one.command(self.place))
        own = dict(one.environment(self.place)) if one.environment else {}
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        if one.name in pipes:
            options["stdin"] = pipes[one.name][0]
        if one.feeds:
            options["stdout"] = pipes[one.feeds][1]
        if self.cgroup:
            entrance = self.cgroup / "cgroup.procs"
            options["preexec_fn"] = lambda: entrance.write_text("0")
        with self._errors(one.name).open("wb") as errors:
            try:
                self._processes[one.name] = subprocess.Popen(
                    command,
                    stderr=errors,
                    cwd=self.place.folder,
                    env={**os.environ, **own},
                    **options,
                )
            except FileNotFoundError as error:
                raise MissingCapability(
                    f"{command[0]} is not on this machine",
                    "guests of the lab have it: workbench bench causal-servers; or install it",
                ) from error
        if one.port:
            self._wait(one)
        for request, end in one.requests:
            _exchange(one.port, request, end)

    def _wait(self, one: Process) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            self.check()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", one.port), 1):
                return
            time.sleep(0.05)
        raise RunFailed(
            f"{one.name} serves nothing at port {one.port}", "is the loopback device up?"
        )

    def _end(self) -> None:
        order = sorted(self._processes, key=lambda name: name != CLIENT)  # servers miss nobody then
        for name in order:
            process = self._processes[name]
            process.kill()
            process.wait()


def _cgroup(stack: ExitStack) -> Path:
    """A cgroup with limits as a container has, as far as this machine lets us set them."""
    from workbench.sched.cgroups import MadeCgroup

    made = MadeCgroup()
    stack.callback(made.remove)
    with contextlib.suppress(OSError):
        (made.folder.parent / "cgroup.subtree_control").write_text("+cpu +memory +pids")
    for name, value in _LIMITS.items():
        with contextlib.suppress(OSError):
            (made.folder / name).write_text(value)
    return made.folder


def _exchange(port: int, request: bytes, end: bytes) -> None:
    """Send this and wait for the answer."""
    with socket.create_connection(("127.0.0.1", port), _PATIENCE) as connection:
        connection.sendall(request)
        answer = b""
        while not answer.endswith(end):
            more = connection.recv(4096)
            if not more:
                raise RunFailed(
                    f"the server at port {port} answered {answer!r}", f"{end!r} was expected"
                )
            answer += more
