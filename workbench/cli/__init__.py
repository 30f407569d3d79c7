"""`workbench VERB`: one module per verb, imported when it is called. What a notebook can do, a verb can do.

A verb module has `HELP` (one line), `configure(parser)` and `execute(arguments) -> exit status`. Errors of the
workbench end as two lines (what, what to do next) and their own exit status; add `--debug` for the traceback.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib import import_module
from typing import Any

from workbench.errors import WorkbenchError

__all__ = ("VERBS", "main")

VERBS = {
    "doctor": "what this machine can do, each row proven by trying",
    "record": "record a process, a command or the whole machine",
    "report": "show what a recording holds",
    "export": "write a recording as Perfetto, speedscope, pprof or folded stacks",
    "schema": "columns, units and meaning of a frame",
    "run": "run an experiment: a notebook with parameters, live or replayed",
    "reproduce": "re-execute every notebook of a paper and check its claims",
    "bench": "measure the workbench itself against its peers",
    "demo": "record a database and draw it: the tour, in one command",
}


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    from workbench import __version__

    parser = argparse.ArgumentParser(
        prog="workbench",
        description="A research workbench for eBPF: record, look, export, reproduce.",
    )
    parser.add_argument("--version", action="version", version=f"workbench {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), "")
    for name, text in VERBS.items():
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:
            import_module(f"workbench.cli.{name}").configure(sub)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of the command line; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    arguments: Any = _parser(words).parse_args(words)
    try:
        status: int = import_module(f"workbench.cli.{arguments.verb}").execute(arguments)
        sys.stdout.flush()
        return status
    except WorkbenchError as error:
        if arguments.debug:
            raise
        print(f"workbench: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("workbench: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`workbench report DIR | head`): die as other tools do.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
        return 141
