"""The first process of a guest: takes requests from the control port, runs commands, moves files.

``python -S -E -m workbench.lab.agent`` is process 1, so it reaps what others leave. It knows one command at a time; a
command's own background processes live on. When the host goes away, the machine switches itself off.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.lab.agent_command import Command
from workbench.lab.transfer import Receiver, frames_of
from workbench.lab.wire import Decoder, Kind, decode_object, encode_object

__all__ = ("PORT", "Agent", "main")

PORT = "org.workbench.control"
"""Name of the virtio-serial port."""

_PIECE = 1 << 16


class HostGone(Exception):
    """The other end of the channel was closed."""


class Agent:
    """Serve requests that arrive on `port` until it ends.

    Parameters
    ----------
    port : int
        Descriptor of the control port, or of any stream in the tests.
    root : Path
        Where transferred files are placed: ``/`` in a guest.
    """

    def __init__(self, port: int, root: Path = Path("/")) -> None:
        self._port, self._root = port, root
        self._decoder = Decoder()
        self._command: Command | None = None
        self._receiver: Receiver | None = None
        self._failure = ""
        self._wake, wake = os.pipe()
        for end in (self._wake, wake):
            os.set_blocking(end, False)
        self._alarm = wake

    def serve(self) -> None:
        """Until the host is gone."""
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        before = signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)
        try:
            self._send(encode_object(Kind.HELLO, _about()))
            while True:
                self._step()
        except HostGone:
            pass
        finally:
            signal.set_wakeup_fd(before)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if self._command:
                self._command.kill(signal.SIGKILL)

    def _step(self) -> None:
        """Wait for something and answer it."""
        waiting = select.poll()
        for one in (self._port, self._wake, *(self._command.outputs if self._command else ())):
            waiting.register(one, select.POLLIN)
        if self._command and self._command.unwritten:
            waiting.register(self._command.input, select.POLLOUT)
        for descriptor, _ in waiting.poll():
            if descriptor == self._port:
                self._requests()
            elif descriptor == self._wake:
                self._reap()
            elif self._command and descriptor in self._command.outputs:
                self._output()
            if self._command and descriptor == self._command.input:
                self._command.feed()

    def _requests(self) -> None:
        try:
            data = os.read(self._port, _PIECE)
        except ConnectionError:
            data = b""
        if not data:
            raise HostGone
        for kind, payload in self._decoder.feed(data):
            try:
                self._answer(kind, payload)
            except (OSError, WorkbenchError, ValueError) as error:
                self._send(encode_object(Kind.ERROR, {"message": str(error) or repr(error)}))

    def _answer(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.RUN:
            if self._command:
                raise ValueError("a command is running already")
            self._command = Command(decode_object(payload))
        elif kind is Kind.STDIN and self._command:
            self._command.write(payload)
        elif kind is Kind.KILL and self._command:
            self._command.kill(int(decode_object(payload)["signal"]))
        elif kind is Kind.RESIZE and self._command:
            self._command.resize(decode_object(payload))
        elif kind is Kind.PUT:
            folder = str(decode_object(payload)["folder"]).lstrip("/")
            self._receiver, self._failure = None, ""
            try:
                self._receiver = Receiver(self._root / folder, outward=True)
            except OSError as error:
                self._failure = str(error)
        elif kind in (Kind.ENTRY, Kind.DATA, Kind.DONE):
            self._receive(kind, payload)
        elif kind is Kind.GET:
            path = self._root / str(decode_object(payload)["path"]).lstrip("/")
            path.lstat()
            for frame in frames_of(path, path.name):
                self._send(frame)

    def _receive(self, kind: Kind, payload: bytes) -> None:
        """One answer per transfer, after its last frame: how many entries, or what went wrong."""
        if self._receiver and not self._failure:
            try:
                self._receiver.take(kind, payload)
            except (OSError, WorkbenchError) as error:
                self._failure = str(error)
        if kind is not Kind.DONE:
            return
        count = self._receiver.entries if self._receiver else 0
        if self._receiver:
            self._receiver.close()
        self._receiver = None
        if self._failure:
            raise ValueError(self._failure)
        self._send(encode_object(Kind.DONE, {"entries": count}))

    def _output(self) -> None:
        assert self._command
        for frame in self._command.output():
            self._send(frame)

    def _reap(self) -> None:
        """Processes that ended: the command itself, and orphans, which become children of process 1."""
        with_status: int | None = None
        while True:
            try:
                os.read(self._wake, 512)
            except BlockingIOError:
                break
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if self._command and pid == self._command.pid:
                with_status = status
        if with_status is not None and self._command:
            command, self._command = self._command, None
            for frame in command.finish(with_status):
                self._send(frame)

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._port, view) :]
            except (BrokenPipeError, ConnectionResetError) as error:
                raise HostGone from error


def _about() -> dict[str, Any]:
    return {
        "release": os.uname().release,
        "cpus": os.cpu_count(),
        "uptime": time.clock_gettime(time.CLOCK_BOOTTIME),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def _control_port() -> int:
    """The control port, open. Its driver may still be looking for it when this process starts."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for port in Path("/sys/class/virtio-ports").glob("*"):
            if (port / "name").read_text().strip() == PORT:
                return os.open(f"/dev/{port.name}", os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.01)
    raise SystemExit(f"the guest has no port {PORT}")


def _off() -> None:
    """Switch the machine off; writes go to a copy that is thrown away, so nothing is synced."""
    import ctypes

    ctypes.CDLL(None).reboot(0x4321FEDC)  # LINUX_REBOOT_CMD_POWER_OFF, linux/reboot.h


def main(off: Callable[[], None] = _off) -> None:
    """Serve the control port, then switch off."""
    Path("/proc/self/oom_score_adj").write_text("-1000")
    try:
        Agent(_control_port()).serve()
    finally:
        sys.stdout.flush()
        off()


if __name__ == "__main__":
    main()
