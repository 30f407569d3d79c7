"""`workbench lab SUBVERB`: disposable guests with a kernel of choice, one module per sub-verb.

A sub-verb is a row of `SUBVERBS` and a module here with `configure(parser)` and `execute(arguments)`, which imports
what it needs when it is called. May be changed: everything but that shape.
"""

from __future__ import annotations

import argparse
import sys

from workbench.cli import subverbs

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
    subverbs.add(parser, __name__, SUBVERBS)


def execute(arguments: argparse.Namespace) -> int:
    """Run the sub-verb."""
    return subverbs.execute(__name__, arguments)


def say(text: str) -> None:
    """A line of progress; standard output belongs to results."""
    print(f"lab: {text}", file=sys.stderr, flush=True)
