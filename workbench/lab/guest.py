"""One boot: QEMU behind its guard, the channel, the console. It ends with `stop`, or with our process."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from workbench.errors import GuestFailed
from workbench.lab.channel import Channel, Closed
from workbench.lab.machine import Machine
from workbench.lab.wire import Kind, decode_object

__all__ = ("Guest",)

_TAIL = 4000
_PANIC = re.compile(r"(Kernel panic - not syncing: .*|Oops: .*|BUG: .*)")
_GUARD = Path(__file__).with_name("guard.py")


class Guest:
    """Start a machine and wait until its agent answers.

    Parameters
    ----------
    machine : Machine
        What to start.
    limit : float
        Seconds of wall time that booting may take.
    workspace : Path
        Folder for the console; removed with the guest.

    Attributes
    ----------
    channel : Channel
        To the agent.
    about : dict
        What the agent said of itself: ``release``, ``cpus``, ``uptime`` (s), ``python``.
    boot_seconds : float
        Wall time from the start of QEMU to the agent's word.

    Raises
    ------
    GuestFailed
        It did not come up; with its console.
    """

    def __init__(self, machine: Machine, limit: float, workspace: Path) -> None:
        self.machine = machine
        self._folder = workspace
        self._console, self._errors = self._folder / "console", self._folder / "errors"
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        started = time.monotonic()
        try:
            self.channel = self._start()
            self.about = self._hello(started + limit, limit)
        except BaseException:
            self.stop()
            raise
        self.boot_seconds = time.monotonic() - started

    def _start(self) -> Channel:
        ours, theirs = socket.socketpair()
        held, self._lifeline = os.pipe()
        try:
            command = self.machine.command(self._console, theirs.fileno())
            with self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_GUARD), str(held), self.machine.priority, *command],
                    stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                    pass_fds=(held, theirs.fileno()), start_new_session=True,
                )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(held)
        return Channel(ours)

    def _hello(self, deadline: float, limit: float) -> dict[str, Any]:
        try:
            answer = self.channel.receive(deadline)
        except TimeoutError:
            raise self.failure(f"the guest did not come up within {limit:g} s") from None
        except Closed:
            raise self.failure("the guest ended while it booted") from None
        if isinstance(answer, int) or answer[0] is not Kind.HELLO:
            raise self.failure("the guest's agent answered out of turn")
        return decode_object(answer[1])

    @property
    def process(self) -> int:
        """Process id of the guard, whose only child is QEMU."""
        return self._process.pid if self._process else 0

    @property
    def console(self) -> str:
        """What the guest's kernel wrote so far."""
        try:
            text = self._console.read_bytes().decode(errors="replace")
        except OSError:
            return ""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc", "", text.replace("\r", ""))

    def failure(self, message: str) -> GuestFailed:
        """The error for a guest that ended or went silent: what its console or QEMU says of it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process:
                self._process.wait(2)
        console = self.console
        try:
            complaint = self._errors.read_text(errors="replace").strip()
        except OSError:
            complaint = ""
        if panic := _PANIC.search(console):
            return GuestFailed(
                f"{message}: its kernel panicked ({panic[1].strip()})",
                "boot it again; if it happens every time, try another kernel (`workbench lab prepare --kernel PATH`)",
                console=console[-_TAIL:], panicked=True,
            )  # fmt: skip
        last = (complaint or console).strip().splitlines()
        return GuestFailed(
            f"{message}" + (f": {last[-1].strip()}" if last else ""),
            "`workbench lab status` shows what is prepared; a busy host may need a longer limit",
            console=(console + complaint)[-_TAIL:],
        )

    def stop(self) -> None:
        """Switch it off at once: what it has written is thrown away in any case. May be called again."""
        if self._lifeline >= 0:
            os.close(self._lifeline)  # the guard kills QEMU
            self._lifeline = -1
        if channel := getattr(self, "channel", None):
            channel.close()
        if self._process:
            self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)
