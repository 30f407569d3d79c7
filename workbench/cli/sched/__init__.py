"""`workbench sched SUBVERB`: sched_ext schedulers, one module per sub-verb.

A sub-verb is a row of `SUBVERBS` and a module here with `configure(parser)` and `execute(arguments)`, which imports
what it needs when it is called. May be changed: everything but that shape.
"""

from __future__ import annotations

import argparse

from workbench.cli import subverbs

__all__ = ("SUBVERBS", "configure", "execute", "table")

SUBVERBS = {
    "run": "load a scheduler, run a command under it, print its counters and why it ended",
    "status": "which scheduler is in charge on this machine, and who holds it",
    "stats": "the kernel's counters of the scheduler in charge, at intervals",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-verbs."""
    subverbs.add(parser, __name__, SUBVERBS)


def execute(arguments: argparse.Namespace) -> int:
    """Run the sub-verb."""
    return subverbs.execute(__name__, arguments)


def table(rows: list[tuple[str, int, str]]) -> list[str]:
    """Counters for a reader: name, value, whose; of the kernel's many events those that happened."""
    from workbench.cli.bpf.text import columns

    cells = [["counter", "value", "of"]]
    cells += [[name, f"{value:,}", of] for name, value, of in rows if value or of != "kernel"]
    return columns(cells, right="lrl")
