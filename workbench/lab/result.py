"""What came of a command in a guest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import RunFailed

__all__ = ("TIMED_OUT", "Result")

TIMED_OUT = 124
"""Exit status of a command that was ended because its time was over; as timeout(1) has it."""


@dataclass(frozen=True, slots=True)
class Result:
    """A command's end.

    Parameters
    ----------
    command : tuple of str
        What was run.
    status : int
        Its exit status; 128 + signal when a signal ended it, 124 when its time was over.
    stdout, stderr : bytes
        What it wrote; the first `lost` bytes may be missing.
    seconds : float
        In the guest's time, from its start to its end.
    wall_seconds : float
        The same in the host's time.
    files : tuple of Path
        What came back from the guest's folder $OUT: paths on the host.
    timed_out : bool
        It was ended because its time was over.
    lost : int
        Bytes of output that were too many to keep.
    panics : tuple of str
        What the guest's kernel said when it panicked in earlier attempts.
    guest : dict
        ``mode``, ``accelerator``, ``release``, ``cpus``, ``memory`` (MiB), ``boot_seconds``.
    """

    command: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes
    seconds: float
    wall_seconds: float
    files: tuple[Path, ...]
    timed_out: bool
    lost: int
    panics: tuple[str, ...]
    guest: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the command ended with status 0."""
        return self.status == 0

    @property
    def text(self) -> str:
        """Its standard output as text."""
        return self.stdout.decode(errors="replace")

    def check(self) -> Result:
        """This result.

        Raises
        ------
        RunFailed
            The command did not end with status 0.
        """
        if self.ok:
            return self
        how = "did not end in time" if self.timed_out else f"ended with status {self.status}"
        last = self.stderr.decode(errors="replace").strip().splitlines()
        raise RunFailed(
            f"in the guest, {' '.join(self.command)[:200]!r} {how}"
            + (f": {last[-1]}" if last else ""),
            "give it a longer limit" if self.timed_out else "",
        )

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON; output as text."""
        return {
            "command": list(self.command),
            "status": self.status,
            "stdout": self.text,
            "stderr": self.stderr.decode(errors="replace"),
            "seconds": self.seconds,
            "wall_seconds": self.wall_seconds,
            "files": [str(path) for path in self.files],
            "timed_out": self.timed_out,
            "lost": self.lost,
            "panics": list(self.panics),
            "guest": self.guest,
        }
