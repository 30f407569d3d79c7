"""A command of the guest on the user's own terminal."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Sequence
from types import FrameType

from workbench.errors import BadSpec, RunFailed
from workbench.lab.channel import Closed
from workbench.lab.guest import Guest
from workbench.lab.wire import Kind, decode_object, encode, encode_object

__all__ = ("interactive",)

_LIMIT = 30.0  # seconds for the guest to take a key
_DAY = 86400.0


def interactive(guest: Guest, command: Sequence[str]) -> int:
    """Run a command on this terminal until it ends; its exit status. Ctrl-C goes to the command.

    Raises
    ------
    BadSpec
        Standard input is no terminal.
    GuestFailed
        The guest panicked or ended.
    """
    keys = sys.stdin.fileno()
    if not (os.isatty(keys) and sys.stdout.isatty()):
        raise BadSpec(
            "a shell needs a terminal", "for a script: `workbench lab run -- sh -c '...'`"
        )
    size = shutil.get_terminal_size()
    fields = {
        "argv": list(command),
        "terminal": [size.lines, size.columns],
        "folder": "/root",
        "env": {"TERM": os.environ.get("TERM", "linux")},
    }
    before = termios.tcgetattr(keys)
    resized, told = os.pipe()

    def resize(number: int, frame: FrameType | None) -> None:
        os.write(told, b"x")

    handler = signal.signal(signal.SIGWINCH, resize)
    try:
        guest.channel.send([encode_object(Kind.RUN, fields)], time.monotonic() + _LIMIT)
        tty.setraw(keys)
        return _relay(guest, keys, resized)
    except Closed:
        raise guest.failure("the guest ended") from None
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)
        for end in (resized, told):
            os.close(end)


def _relay(guest: Guest, keys: int, resized: int) -> int:
    """Pass keys in and output out until the command ends."""
    channel = guest.channel
    while True:
        ready = channel.receive(time.monotonic() + _DAY, also=(keys, resized))
        if isinstance(ready, int):
            if ready == resized:
                os.read(resized, 512)
                size = shutil.get_terminal_size()
                frame = encode_object(Kind.RESIZE, {"rows": size.lines, "columns": size.columns})
            else:
                frame = encode(Kind.STDIN, os.read(keys, 4096) or b"\x04")
            channel.send([frame], time.monotonic() + _LIMIT)
            continue
        kind, payload = ready
        if kind is Kind.STDOUT:
            os.write(1, payload)
        elif kind is Kind.EXIT:
            end = decode_object(payload)
            return 128 + int(end["signal"]) if end.get("signal") else int(end["status"])
        elif kind is Kind.ERROR:
            raise RunFailed(f"in the guest: {decode_object(payload).get('message')}")
