"""`workbench record`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import Any

from workbench.collectors.options import add_arguments, keywords
from workbench.collectors.recorder import Recorder, State
from workbench.errors import WorkbenchError

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.epilog = "example: workbench record -c cpu:999 -c uprobe:libc:malloc -o out -- sqlite3 my.db"


def execute(arguments: argparse.Namespace) -> int:
    """Record until the target exits, the time is over or Ctrl-C; the exit status of a command is handed on."""
    recorder = Recorder(**keywords(arguments))

    def stop(_number: int, _frame: Any) -> None:
        # Without a time or a command, Ctrl-C is how a recording is meant to end.
        planned = arguments.seconds is not None or bool(arguments.command)
        recorder.stop(interrupted=planned, reason="" if planned else "stopped by the user")

    # Handlers first: a Ctrl-C while attaching must reach `start`, which undoes everything.
    recorder.start()
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    live = not arguments.quiet and sys.stderr.isatty()
    try:
        recorder.wait(on_tick=_show if live else None)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if live:
            print("\r\x1b[K", end="", file=sys.stderr)
    try:
        recording = recorder.result()
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        recording = recorder.recording
        _print(recording, arguments.json)
        return error.exit_status
    _print(recording, arguments.json)
    if recorder.exit_status:
        print(f"workbench: the command ended with status {recorder.exit_status}", file=sys.stderr)
        return recorder.exit_status if recorder.exit_status > 0 else 128 - recorder.exit_status
    return 0


def _show(state: State) -> None:
    print(f"\r\x1b[K{state}", end="", file=sys.stderr, flush=True)


def _print(recording: Any, as_json: bool) -> None:
    if as_json:
        print(
            json.dumps(
                {
                    "path": str(recording.path),
                    "status": recording.status,
                    "reason": recording.manifest.reason,
                    "frames": recording.rows,
                    "lost": recording.lost,
                }
            )
        )
    else:
        print(recording)
