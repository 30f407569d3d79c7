"""Our end of the channel: frames to the guest and from it, never waiting longer than was allowed."""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable

from workbench.lab.wire import Decoder, Kind

__all__ = ("Channel", "Closed")

_PIECE = 1 << 16


class Closed(Exception):
    """The guest is gone."""


class Channel:
    """Frames over a connected socket."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._decoder = Decoder()
        self._received: deque[tuple[Kind, bytes]] = deque()
        self._waiting = bytearray()
        self._open = True

    def send(self, frames: Iterable[bytes], deadline: float) -> None:
        """Send all frames; what arrives meanwhile is kept for `receive`.

        Parameters
        ----------
        frames : iterable of bytes
            Made one after the other, as the guest takes them.
        deadline : float
            In the time of `time.monotonic`.

        Raises
        ------
        TimeoutError
            The guest did not take them in time.
        Closed
            It is gone.
        """
        for frame in frames:
            self._waiting += frame
            while len(self._waiting) > _PIECE:
                self._pump(deadline)
        while self._waiting:
            self._pump(deadline)

    def receive(self, deadline: float, also: tuple[int, ...] = ()) -> tuple[Kind, bytes] | int:
        """The next frame, or the descriptor of `also` that can be read before one came.

        Raises
        ------
        TimeoutError
            None came in time.
        Closed
            The guest is gone.
        RunFailed
            What came is no frame.
        """
        while not self._received:
            other = self._pump(deadline, also)
            if other is not None:
                return other
        return self._received.popleft()

    def _pump(self, deadline: float, also: tuple[int, ...] = ()) -> int | None:
        """Wait for one event; the descriptor of `also` if it was there."""
        if not self._open:
            raise Closed
        with selectors.DefaultSelector() as selector:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._waiting else 0)
            selector.register(self._end, events)
            for one in also:
                selector.register(one, selectors.EVENT_READ)
            ready = selector.select(max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        for key, mask in ready:
            if key.fd in also:
                return key.fd
            if mask & selectors.EVENT_READ:
                self._read()
            if mask & selectors.EVENT_WRITE:
                self._write()
        return None

    def _read(self) -> None:
        try:
            data = self._end.recv(_PIECE)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._open = False
            if not self._received:
                raise Closed
            return
        self._received.extend(self._decoder.feed(data))

    def _write(self) -> None:
        try:
            del self._waiting[: self._end.send(self._waiting[:_PIECE])]
        except BlockingIOError:
            return
        except ConnectionError as error:
            self._open = False
            raise Closed from error

    def close(self) -> None:
        """Close our end; the guest switches itself off."""
        self._open = False
        self._end.close()
