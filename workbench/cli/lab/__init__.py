"""`workbench lab SUBVERB`: disposable guests with a kernel of choice, one module per sub-verb.

A sub-verb is a row of `SUBVERBS` and a module here with `configure(parser)` and `execute(arguments)`, which imports
what it needs when it is called. May be changed: everything but that shape.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

__all__ = ("SUBVERBS", "configure", "execute", "say")

SUBVERBS = {
    "prepare": "get a kernel with sched_ext and make the image: the only step that downloads",
    "run": "boot a guest, run a command in it, hand on its output, files and exit status",
    "shell": "boot a guest and open a shell in it",
    "status": "what is prepared: kernels, images, programs, how guests are run",
    "clean": "remove what is prepared",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-verbs."""
    verbs = parser.add_subparsers(dest="subverb", metavar="SUBVERB", required=True)
    for name, text in SUBVERBS.items():
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        import_module(f"workbench.cli.lab.{name}").configure(sub)


def execute(arguments: argparse.Namespace) -> int:
    """Run the sub-verb."""
    status: int = import_module(f"workbench.cli.lab.{arguments.subverb}").execute(arguments)
    return status


def say(text: str) -> None:
    """A line of progress; standard output belongs to results."""
    print(f"lab: {text}", file=sys.stderr, flush=True)
