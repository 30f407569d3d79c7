"""`workbench causal attach --pid PID`, or `--cgroup DIR`."""

from __future__ import annotations

import argparse

from workbench.cli.causal import here, options

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--pid", type=int, metavar="PID", help="the process, with what it forks")
    who.add_argument(
        "--cgroup",
        metavar="DIR",
        help="what is in this cgroup and those below it, and what enters them",
    )
    options.add_options(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Experiment on what runs."""
    options.require_points(arguments)
    scope = f"cgroup:{arguments.cgroup}" if arguments.cgroup else "pid"
    return here.finish(here.measure(arguments, pid=arguments.pid, scope=scope), arguments)
