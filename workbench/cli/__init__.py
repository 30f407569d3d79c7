"""`workbench VERB`: one module per verb, imported when it is called. What a notebook can do, a verb can do.

A verb module has `HELP` (one line), `configure(parser)` and `execute(arguments) -> exit status`. Errors of the
workbench end as two lines (what, what to do next) and their own exit status; add `--debug` for the traceback.
"""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from importlib import import_module
from typing import Any, NoReturn

from workbench.errors import BadSpec, WorkbenchError

__all__ = ("VERBS", "main")

VERBS = {
    "doctor": "what this machine can do, each row proven by trying",
    "record": "record a process, a command or the whole machine",
    "report": "show what a recording holds",
    "export": "write a recording as Perfetto, speedscope, pprof or folded stacks",
    "schema": "columns, units and meaning of a frame",
    "run": "run an experiment: a notebook with parameters, live or replayed",
    "reproduce": "re-execute every notebook of a paper and check its claims",
    "bpf": "programs of the userspace runtime: disassemble, run, test against the kernel",
    "lab": "disposable guests with a kernel that has sched_ext: prepare, run, shell, status",
    "sched": "sched_ext schedulers: run a command under one, status, counters",
    "causal": "what a program would gain if a part of it were faster, by experiments in the scheduler",
    "bench": "measure the workbench itself against its peers",
    "demo": "record a database and draw it: the tour, in one command",
}

_WITH_COMMAND = ("record", "lab", "sched", "causal")
"""Verbs that take a command after ``--``, whose own options are left alone."""


class _Parser(argparse.ArgumentParser):
    """Usage errors as two lines, like every other error: what, and what to do."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"workbench: {message}\n  hint: see `{self.prog} --help`\n")


def _verb(words: list[str]) -> str:
    """The verb that is called.

    Raises
    ------
    BadSpec
        There is no such verb; names the nearest.
    """
    verb = next((word for word in words if not word.startswith("-")), "")
    if verb and verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        raise BadSpec(
            f"there is no verb {verb!r}",
            (f"did you mean {near[0]!r}? " if near else "") + f"verbs: {', '.join(VERBS)}",
        )
    return verb


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    from workbench import __version__

    parser = _Parser(
        prog="workbench",
        description="A research workbench for eBPF: record, look, export, reproduce.",
    )
    parser.add_argument("--version", action="version", version=f"workbench {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = _verb(argv)
    for name, text in VERBS.items():
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:
            import_module(f"workbench.cli.{name}").configure(sub)
    return parser


def _arguments(words: list[str]) -> Any:
    command: list[str] = []
    if "--" in words and _verb(words) in _WITH_COMMAND:
        at = words.index("--")
        words, command = words[:at], words[at + 1 :]
    arguments = _parser(words).parse_args(words)
    if command:
        arguments.command = [*getattr(arguments, "command", ()), *command]
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Entry point of the command line; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words[:1]
    if sys.stdout.errors == "strict":  # names of files and of threads need not be text
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        arguments = _arguments(words)
        status: int = import_module(f"workbench.cli.{arguments.verb}").execute(arguments)
        sys.stdout.flush()
        return status
    except WorkbenchError as error:
        if debug:
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
    except OSError as error:  # a file or folder that nobody expected to fail; it names it
        if debug:
            raise
        print(f"workbench: {error}", file=sys.stderr)
        return 1
