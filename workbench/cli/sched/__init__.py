"""`workbench sched SUBVERB`: sched_ext schedulers, one module per sub-verb.

A sub-verb is a row of `SUBVERBS` and a module here with `configure(parser)` and `execute(arguments)`, which imports
what it needs when it is called. May be changed: everything but that shape.
"""

from __future__ import annotations

import argparse
from importlib import import_module

__all__ = ("SUBVERBS", "configure", "execute", "table")

SUBVERBS = {
    "run": "load a scheduler, run a command under it, print its counters and why it ended",
    "status": "which scheduler is in charge on this machine, and who holds it",
    "stats": "the kernel's counters of the scheduler in charge, at intervals",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-verbs."""
    verbs = parser.add_subparsers(dest="subverb", metavar="SUBVERB", required=True)
    for name, text in SUBVERBS.items():
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        import_module(f"workbench.cli.sched.{name}").configure(sub)


def execute(arguments: argparse.Namespace) -> int:
    """Run the sub-verb."""
    status: int = import_module(f"workbench.cli.sched.{arguments.subverb}").execute(arguments)
    return status


def table(rows: list[tuple[str, int, str]]) -> list[str]:
    """Counters for a reader: name, value, whose; of the kernel's many events those that happened."""
    from workbench.cli.bpf.text import columns

    cells = [["counter", "value", "of"]]
    cells += [[name, f"{value:,}", of] for name, value, of in rows if value or of != "kernel"]
    return columns(cells, right="lrl")
