"""Experiments on this machine, by either sub-verb."""

from __future__ import annotations

import argparse
import contextlib
import signal
from typing import TYPE_CHECKING

from workbench.cli.causal import options, output

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workbench.frames.recording import Recording

__all__ = ("finish", "folder", "measure")


def measure(
    arguments: argparse.Namespace,
    *,
    command: Sequence[str] = (),
    pid: int | None = None,
    scope: str = "pid",
) -> Recording:
    """Run experiments on a command, a process or a cgroup of this machine."""
    from workbench.causal.checks import ALL, NONE
    from workbench.causal.session import profile

    with _signals():
        return profile(
            arguments.progress,
            arguments.region,
            command=command,
            pid=pid,
            latency=arguments.latency,
            within=arguments.within,
            scope=scope,
            backend=arguments.backend,
            output=folder(arguments),
            plan=options.plan(arguments),
            parameters=options.parameters(arguments, scope),
            checks=NONE if arguments.no_checks else ALL,
            tolerance=arguments.tolerance,
            overwrite=arguments.overwrite,
            stdout=2 if arguments.json else None,
            say=output.sayer(arguments.quiet),
        )


def finish(recording: Recording, arguments: argparse.Namespace) -> int:
    """Write what else was asked for, print the result; the exit status."""
    if arguments.coz:
        from pathlib import Path

        Path(arguments.coz).write_bytes(recording.file("profile.coz"))
    return output.show(recording, arguments.json)


def folder(arguments: argparse.Namespace) -> str:
    """Where the recording goes."""
    import tempfile

    return arguments.output or f"{tempfile.mkdtemp(prefix='workbench-')}/causal"


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does."""
    previous = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
