"""One request to a guest's agent and its answer; every wait has an end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import GuestFailed, RunFailed
from workbench.lab.channel import Closed
from workbench.lab.guest import Guest
from workbench.lab.result import TIMED_OUT
from workbench.lab.transfer import Receiver
from workbench.lab.wire import Kind, decode_object, encode, encode_object

__all__ = ("End", "Exchange", "Output")

Output = Callable[[int, bytes], None]
"""Takes 1 (standard output) or 2 (standard error), and bytes."""

_KEPT = 64 << 20  # bytes of each stream
_GRACE = 30.0  # seconds for an ended command to be gone, on a host however busy
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class End:
    """How a command ended: status, seconds in the guest's time, and whether its time was over."""

    status: int
    seconds: float
    timed_out: bool


class Exchange:
    """A request.

    Parameters
    ----------
    guest : Guest
        Whom to ask.
    show : callable, optional
        Called with each piece of a command's output.

    Attributes
    ----------
    stdout, stderr : bytearray
        What the command wrote, the last part when that is too long.
    lost : int
        Bytes that were dropped because of that.
    """

    def __init__(self, guest: Guest, show: Output | None = None) -> None:
        self._guest, self._show = guest, show
        self.stdout, self.stderr = bytearray(), bytearray()
        self.lost = 0

    def run(self, fields: dict[str, Any], stdin: bytes | None, deadline: float) -> End:
        """Run a command to its end, or end it at `deadline`.

        Raises
        ------
        GuestFailed
            The guest panicked or no longer answers.
        """
        timed_out = False
        try:
            self._send([encode_object(Kind.RUN, fields)], deadline)
            if stdin is not None:
                self._send(_pieces(stdin), deadline)
            answer = self._end(deadline)
        except TimeoutError:
            timed_out = True
            answer = self._kill()
        except KeyboardInterrupt:
            self._kill()
            raise
        number = int(answer.get("signal", 0))
        status = TIMED_OUT if timed_out else 128 + number if number else int(answer["status"])
        return End(status, float(answer.get("seconds", 0.0)), timed_out)

    def put(self, folder: str, frames: Iterator[bytes], deadline: float) -> int:
        """Send files into `folder`; the number of entries.

        Raises
        ------
        RunFailed
            The guest could not write them.
        GuestFailed
            It panicked or no longer answers.
        """
        try:
            self._send([encode_object(Kind.PUT, {"folder": folder})], deadline)
            self._send(frames, deadline)
            while True:
                kind, payload = self._receive(deadline)
                if kind is Kind.DONE:
                    return int(decode_object(payload)["entries"])
                self._refused(kind, payload)
        except TimeoutError:
            raise self._silent() from None

    def get(self, path: str, receiver: Receiver, deadline: float) -> tuple[Path, ...]:
        """Fetch a file or a folder; the files that were written.

        Raises
        ------
        RunFailed
            There is no such file in the guest.
        GuestFailed
            It panicked or no longer answers.
        """
        try:
            self._send([encode_object(Kind.GET, {"path": path})], deadline)
            while True:
                kind, payload = self._receive(deadline)
                self._refused(kind, payload)
                if receiver.take(kind, payload):
                    return tuple(receiver.files)
        except TimeoutError:
            raise self._silent() from None

    def _end(self, deadline: float) -> dict[str, Any]:
        """Take output until the command ends; its EXIT frame."""
        while True:
            kind, payload = self._receive(deadline)
            if kind is Kind.EXIT:
                return decode_object(payload)
            if kind is Kind.STDOUT:
                self._keep(self.stdout, payload, 1)
            elif kind is Kind.STDERR:
                self._keep(self.stderr, payload, 2)
            else:
                self._refused(kind, payload)

    def _keep(self, kept: bytearray, data: bytes, stream: int) -> None:
        kept += data
        if over := max(0, len(kept) - _KEPT):
            del kept[:over]
            self.lost += over
        if self._show:
            self._show(stream, data)

    def _kill(self) -> dict[str, Any]:
        """End the command: politely, then not."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + _GRACE
            try:
                self._send([encode_object(Kind.KILL, {"signal": int(number)})], deadline)
                return self._end(deadline)
            except TimeoutError:
                continue
        raise self._silent()

    def _silent(self) -> GuestFailed:
        failure = self._guest.failure("the guest no longer answers")
        self._guest.stop()
        return failure

    def _refused(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.ERROR:
            raise RunFailed(f"in the guest: {decode_object(payload).get('message')}")
        if kind not in (Kind.ENTRY, Kind.DATA, Kind.DONE, Kind.STDOUT, Kind.STDERR):
            raise RunFailed(f"the guest answered with {kind.name} out of turn")

    def _send(self, frames: Any, deadline: float) -> None:
        try:
            self._guest.channel.send(frames, deadline)
        except Closed:
            raise self._guest.failure("the guest ended") from None

    def _receive(self, deadline: float) -> tuple[Kind, bytes]:
        try:
            frame = self._guest.channel.receive(deadline)
        except Closed:
            raise self._guest.failure("the guest ended while a command ran") from None
        assert not isinstance(frame, int)
        return frame


def _pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), _PIECE):
        yield encode(Kind.STDIN, data[at : at + _PIECE])
    yield encode(Kind.STDIN)
