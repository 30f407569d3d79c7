"""`workbench causal SUBVERB`: causal profiles, one module per sub-verb.

A sub-verb is a row of `SUBVERBS` and a module here with `configure(parser)` and `execute(arguments)`, which imports
what it needs when it is called. May be changed: everything but that shape.
"""

from __future__ import annotations

import argparse

from workbench.cli import subverbs

__all__ = ("SUBVERBS", "configure", "execute")

SUBVERBS = {
    "run": "start a command, experiment on it, end it",
    "attach": "experiment on a running process or a cgroup, which goes on afterwards",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-verbs."""
    subverbs.add(parser, __name__, SUBVERBS)


def execute(arguments: argparse.Namespace) -> int:
    """Experiment; 1 if the run is void, 130 after Ctrl-C, with what was measured until then kept."""
    return subverbs.execute(__name__, arguments)
