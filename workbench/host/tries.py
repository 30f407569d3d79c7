"""Run trials in a process of their own, so that a crash, a hang or a leak is a row of the table and nothing more."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import workbench.host.try_bpf
import workbench.host.try_gpu
import workbench.host.try_lab
import workbench.host.try_memory
import workbench.host.try_perf
import workbench.host.try_process
import workbench.host.try_runtime
import workbench.host.try_tools  # noqa: F401  importing a module registers its trials
from workbench.errors import BadSpec
from workbench.host.table import Doctor, Row
from workbench.host.trial import TRIALS

__all__ = ("NAMES", "check", "doctor")

NAMES: tuple[str, ...] = tuple(TRIALS)
"""Every row of the table."""

_START_LIMIT = 20.0  # seconds for the interpreter of the trials to start, on a machine under load
_known: dict[str, Row] = {}


def doctor(names: Sequence[str] = (), progress: Callable[[Row], None] | None = None) -> Doctor:
    """Try `names` (all rows when empty) now, each once, and remember the answers for `check`.

    Parameters
    ----------
    names : sequence of str
        Rows of the table; all of `NAMES` when empty.
    progress : callable, optional
        Called with each row as soon as it was tried.

    Raises
    ------
    BadSpec
        A name that is no row of the table.
    """
    chosen = tuple(dict.fromkeys(names)) or NAMES
    for name in chosen:
        if name not in TRIALS:
            near = difflib.get_close_matches(name, NAMES, 3, 0.4) or NAMES
            raise BadSpec(f"no capability is named {name!r}", f"did you mean: {', '.join(near)}")
    rest = list(chosen)
    while rest:
        for row in _in_child(tuple(rest)):
            _known[row.name] = row
            rest.remove(row.name)
            if progress:
                progress(row)
    return Doctor(tuple(_known[name] for name in chosen))


def check(name: str) -> Row:
    """The row `name`, tried once in the life of this process."""
    return _known[name] if name in _known else doctor((name,))[name]


def _in_child(names: Sequence[str]) -> Iterator[Row]:
    """Rows from one child process until it is done, dies or hangs; at least one row."""
    package = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "workbench.host.child", *names]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        remedy = f"use a Python that this user may run ({sys.executable})"
        for name in names:
            yield Row(name, False, f"could not be tried: {error}", remedy)
        return
    try:
        yield from _rows(child, names)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout:
            child.stdout.close()


def _rows(child: subprocess.Popen[bytes], names: Sequence[str]) -> Iterator[Row]:
    assert child.stdout
    waiting = iter(names)
    start = _START_LIMIT
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        for name in waiting:
            limit = TRIALS[name].limit
            line = _line(child.stdout.fileno(), selector, time.monotonic() + limit + start)
            start = 0.0
            if line is None:
                yield Row(name, False, f"no answer within {limit:g} s", TRIALS[name].remedy)
                return
            if not line:
                yield Row(name, False, _death(child), TRIALS[name].remedy)
                return
            yield Row(**json.loads(line))


def _line(fd: int, selector: selectors.BaseSelector, deadline: float) -> bytes | None:
    """One line; empty at the end of the stream, None after the deadline."""
    line = bytearray()
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not selector.select(left):
            return None
        # One byte at a time: a second line must stay in the pipe for the next call.
        byte = os.read(fd, 1)
        if not byte:
            return b""
        line += byte
    return bytes(line)


def _death(child: subprocess.Popen[bytes]) -> str:
    # Not reaped yet: until the group was killed its number must stay taken.
    end = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    if end and end.si_code != os.CLD_EXITED:
        return f"trying it killed the process that tried: {signal.Signals(end.si_status).name}"
    return f"the process that tried it exited with status {end.si_status if end else 'unknown'}"
