"""Start a workload, learn what can be watched in it, and stop it."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from workbench.errors import BadSpec, RunFailed

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("WORKLOADS", "Workload", "workload")

WORKLOADS = {
    "sqlite": "the SQLite library doing inserts and queries on a file",
    "threads": "threads that share a lock, sleep, compute and touch fresh memory",
    "opencl": "OpenCL kernels, copies and allocations (PoCL runs them on the CPU)",
}
_PATIENCE = 60.0


class Workload:
    """A running workload.

    Attributes
    ----------
    pid : int
    facts : dict
        What the program said of itself when it was ready, such as the address of a counter.
    command : tuple of str
        The command line, for `record(command=...)`.
    """

    def __init__(self, name: str, seconds: float) -> None:
        if name not in WORKLOADS:
            raise BadSpec(f"there is no workload {name!r}", f"workloads: {', '.join(WORKLOADS)}")
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="workbench-workload-")
        self.command = (
            sys.executable,
            "-m",
            f"workbench.runs.workloads.{name}",
            str(seconds),
            self._folder.name,
        )
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,  # an interrupt of the notebook's kernel is not meant for it
        )  # fmt: skip
        self.pid = self._process.pid
        self.facts: dict[str, Any] = self._ready()

    def _ready(self) -> dict[str, Any]:
        assert self._process.stdout is not None and self._process.stderr is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _PATIENCE)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self._process.kill()
            text = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
            self.close()
            raise RunFailed(
                f"workload {self.name!r} did not start", text[-1] if text else "it printed nothing"
            )
        facts: dict[str, Any] = json.loads(line)
        return facts

    def __repr__(self) -> str:
        return f"<workload {self.name}, process {self.pid}: {WORKLOADS[self.name]}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "facts" or name not in self.facts:
            raise AttributeError(name)
        return self.facts[name]

    def close(self) -> None:
        """End the program and delete its files; safe to call twice."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._folder.cleanup()

    def __enter__(self) -> Workload:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()


def workload(name: str = "sqlite", seconds: float = 60) -> Workload:
    """Start a real program to observe; it ends with `close()`, with its `with` block or after `seconds`.

    Raises
    ------
    BadSpec
        No workload has that name.
    RunFailed
        It could not start; the hint is its last line of output.
    """
    return Workload(name, seconds)
