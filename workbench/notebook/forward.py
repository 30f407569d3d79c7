"""What a command prints, in the cell that runs it: all of it, and before the cell ends."""

from __future__ import annotations

import codecs
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("ForwardedOutput",)

PATIENCE = 1.0  # seconds; a daemon that the command left behind may hold its output open for ever


class ForwardedOutput:
    """Pipes for a command's output that are copied to ``sys.stdout`` and ``sys.stderr`` until the end of the block.

    ipykernel would also show what a child writes to the kernel's own descriptors, but some time later, in whatever
    cell then runs.
    """

    def __enter__(self) -> ForwardedOutput:
        self._threads: list[threading.Thread] = []
        self.stdout, self.stderr = self._pipe("stdout"), self._pipe("stderr")
        return self

    def started(self) -> None:
        """The command has its ends of the pipes: let go of ours, so that its exit ends the copying."""
        for fd in (self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.stdout = self.stderr = -1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.started()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _pipe(self, name: str) -> int:
        read, write = os.pipe()
        thread = threading.Thread(
            target=_copy, args=(read, getattr(sys, name)), name=f"workbench-{name}", daemon=True
        )
        thread.start()
        self._threads.append(thread)
        return write


def _copy(read: int, stream: Any) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while piece := pipe.read(65536):
            stream.write(decoder.decode(piece))
        stream.write(decoder.decode(b"", final=True))
    stream.flush()
