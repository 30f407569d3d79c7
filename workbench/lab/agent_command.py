"""One command in the guest: its process, its streams, its terminal."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.errors import RunFailed
from workbench.lab.wire import Kind, encode, encode_object

__all__ = ("Command",)

_PIECE = 1 << 16
_ROUNDS = 32  # pieces left in a stream at the end; a pipe holds one, a background process may go on for ever
_NOT_FOUND, _NOT_RUN = 127, 126  # what a shell gives


class Command:
    """Start what the RUN frame asks for.

    Parameters
    ----------
    fields : dict
        ``argv`` (list of str), ``env`` (dict added to the guest's own), ``folder`` (working folder, made if it is
        missing), ``terminal`` (None, or [rows, columns]: the command gets a terminal), ``stdin`` (bool: STDIN frames
        follow; else it reads /dev/null).

    Attributes
    ----------
    pid : int
        Its process, which leads a session of its own.
    outputs : dict of int to Kind
        Descriptors to read and the kind of frame that takes what they give.
    input : int
        Descriptor of its standard input, -1 without one.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        argv = [str(word) for word in fields.get("argv") or ()]
        if not argv:
            raise RunFailed("there is no command to run")
        self._environment = os.environ | {
            str(k): str(v) for k, v in (fields.get("env") or {}).items()
        }
        self._folder = str(fields.get("folder") or "/tmp")
        Path(self._folder).mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        self._waiting = bytearray()
        self._ending = False
        self.outputs: dict[int, Kind] = {}
        self.input = -1
        terminal = fields.get("terminal")
        if terminal:
            self._with_terminal(argv, terminal)
        else:
            self._with_pipes(argv, bool(fields.get("stdin")))

    def _with_pipes(self, argv: list[str], stdin: bool) -> None:
        theirs_in, ours_in = os.pipe() if stdin else (os.open(os.devnull, os.O_RDONLY), -1)
        ours_out, theirs_out = os.pipe()
        ours_err, theirs_err = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            self._become(argv, theirs_in, theirs_out, theirs_err)
        for end in (theirs_in, theirs_out, theirs_err):
            os.close(end)
        self.outputs = {ours_out: Kind.STDOUT, ours_err: Kind.STDERR}
        self.input = ours_in
        for end in (ours_out, ours_err, ours_in):
            if end >= 0:
                os.set_blocking(end, False)

    def _with_terminal(self, argv: list[str], size: list[int]) -> None:
        ours, theirs = os.openpty()
        self.outputs, self.input = {ours: Kind.STDOUT}, ours
        self.resize({"rows": size[0], "columns": size[1]})
        self.pid = os.fork()
        if not self.pid:
            os.setsid()
            import fcntl
            import termios

            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
            self._become(argv, theirs, theirs, theirs)
        os.close(theirs)
        os.set_blocking(ours, False)

    def _become(self, argv: list[str], *streams: int) -> None:
        """The rest of the child; never returns."""
        try:
            if os.getsid(0) != os.getpid():
                os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            high = [os.dup2(one, 100 + at) for at, one in enumerate(streams)]
            for at, one in enumerate(high):
                os.dup2(one, at)
            os.closerange(3, 1024)
            os.chdir(self._folder)
            Path("/proc/self/oom_score_adj").write_text("0")
            os.execvpe(argv[0], argv, self._environment)
        except OSError as error:
            os.write(2, f"{argv[0]}: {os.strerror(error.errno or 0)}\n".encode())
            os._exit(_NOT_FOUND if error.errno == errno.ENOENT else _NOT_RUN)
        finally:
            os._exit(_NOT_RUN)

    @property
    def unwritten(self) -> bool:
        """Whether bytes wait for the command to read its input."""
        return self.input >= 0 and bool(self._waiting or self._ending)

    def write(self, data: bytes) -> None:
        """Bytes for its standard input; empty ends it."""
        if data:
            self._waiting += data
        else:
            self._ending = True
        self.feed()

    def feed(self) -> None:
        """Hand on as much input as it takes now."""
        if self.input < 0:
            self._waiting.clear()
            return
        try:
            while self._waiting:
                del self._waiting[: os.write(self.input, self._waiting[:_PIECE])]
        except BlockingIOError:
            return
        except OSError:  # it closed its input
            self._waiting.clear()
            self._ending = True
        if self._ending and self.input not in self.outputs:
            os.close(self.input)
            self.input = -1
        self._ending = False

    def output(self) -> Iterator[bytes]:
        """Frames of what it wrote, a piece of each stream; a stream that ended is dropped."""
        for descriptor, kind in list(self.outputs.items()):
            try:
                data = os.read(descriptor, _PIECE)
            except BlockingIOError:
                continue
            except OSError:  # a terminal whose last user is gone
                data = b""
            if data:
                yield encode(kind, data)
            else:
                self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        del self.outputs[descriptor]
        if descriptor == self.input:
            self.input = -1
        os.close(descriptor)

    def resize(self, size: dict[str, Any]) -> None:
        """Tell its terminal the size of the user's."""
        import fcntl
        import struct
        import termios

        if self.input in self.outputs:
            window = struct.pack("HHHH", int(size["rows"]), int(size["columns"]), 0, 0)
            fcntl.ioctl(self.input, termios.TIOCSWINSZ, window)

    def kill(self, number: int) -> None:
        """Send a signal to its process group."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    def finish(self, status: int) -> Iterator[bytes]:
        """What is left in the streams, then EXIT. Background processes that still hold them are not waited for."""
        seconds = time.monotonic() - self._started
        for _ in range(_ROUNDS):
            yield from (frames := list(self.output()))
            if not frames:
                break
        for descriptor in list(self.outputs):
            self._drop(descriptor)
        if self.input >= 0:
            os.close(self.input)
        code = os.waitstatus_to_exitcode(status)
        yield encode_object(
            Kind.EXIT, {"status": max(code, 0), "signal": max(-code, 0), "seconds": seconds}
        )
