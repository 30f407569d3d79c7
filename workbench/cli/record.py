"""`workbench record`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from workbench.collectors.options import add_arguments, keywords
from workbench.collectors.recorder import Recorder, State
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("configure", "execute")

_STOPPED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Ended(KeyboardInterrupt):
    """A signal came before anything was recorded."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    add_arguments(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the result as JSON; what a command prints goes to standard error then",
    )
    parser.epilog = "example: workbench record -c cpu:999 -c uprobe:libc:malloc -o out -- sqlite3 my.db"


def execute(arguments: argparse.Namespace) -> int:
    """Record until the target exits, the time is over or Ctrl-C; the exit status of a command is handed on."""
    recorder = Recorder(**keywords(arguments), stdout=2 if arguments.json else None)
    # Without a time or a command, Ctrl-C is how a recording is meant to end.
    planned = arguments.seconds is not None or bool(arguments.command)
    with _signals(recorder, planned) as caught:
        try:
            recorder.start()
        except _Ended as ended:
            print("workbench: stopped before anything was recorded", file=sys.stderr)
            return 128 + ended.number
        _wait(recorder, live=not arguments.quiet and sys.stderr.isatty())
    # What a command prints is its own: the summary keeps out of its way.
    place = sys.stdout if arguments.json or not arguments.command else sys.stderr
    try:
        recording = recorder.result()
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        with contextlib.suppress(WorkbenchError):  # nothing could be kept
            _print(recorder.recording, arguments.json, place)
        return error.exit_status
    _print(recording, arguments.json, place)
    status = recorder.exit_status
    if status and recording.manifest.notes.get("ended_by") == "the target exited":
        how = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
        print(f"workbench: the command {how}", file=sys.stderr)
        return status if status > 0 else 128 - status
    return 128 + caught[0] if caught and planned else 0


@contextlib.contextmanager
def _signals(recorder: Recorder, planned: bool) -> Iterator[list[int]]:
    """Ctrl-C and its kin end the attaching, or the recording, which is then written; a further one is answered.

    Gives the list of those that came.
    """
    caught: list[int] = []

    def stop(number: int, _frame: Any) -> None:
        phase = recorder.state().phase
        caught.append(number)
        if phase == "finishing":
            os.write(2, b"\nworkbench: writing what was recorded, one moment\n")
        # Also before it began: an exception may get lost where Python ignores them.
        recorder.stop(interrupted=planned, reason="" if planned else "stopped by the user")
        if phase == "new":
            raise _Ended(number)

    previous = {}
    for number in _STOPPED_BY:
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGTERM:  # else: nohup
            previous[number] = signal.signal(number, stop)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(recorder: Recorder, *, live: bool) -> None:
    try:
        recorder.wait(on_tick=_show if live else None)
    except OSError:  # the terminal is gone: so is who watched, not what is recorded
        recorder.wait()
    if live:
        with contextlib.suppress(OSError):
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _show(state: State) -> None:
    print(f"\r\x1b[K{state}", end="", file=sys.stderr, flush=True)


def _print(recording: Any, as_json: bool, place: Any) -> None:
    if as_json:
        print(
            json.dumps(
                {
                    "path": str(recording.path),
                    "status": recording.status,
                    "reason": recording.manifest.reason,
                    "exit_status": recording.manifest.notes.get("exit_status"),
                    "frames": recording.rows,
                    "lost": recording.lost,
                }
            ),
            file=place,
        )
    else:
        print(recording, file=place)
