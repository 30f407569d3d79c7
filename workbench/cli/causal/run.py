"""`workbench causal run -- COMMAND`."""

from __future__ import annotations

import argparse

from workbench.cli.causal import here, options, output
from workbench.errors import BadSpec

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    options.add_options(parser)
    parser.add_argument(
        "--scope",
        default="pid",
        metavar="pid|cgroup[:DIR]",
        help="pid: the command and what it forks (default); cgroup: all that enters the cgroup that is made for it; "
        "cgroup:DIR: the command is started in this cgroup, whose processes take part",
    )
    guest = parser.add_argument_group("in a guest, for machines without sched_ext")
    guest.add_argument("--lab", action="store_true", help="run in a guest of `workbench lab`")
    guest.add_argument(
        "--mode",
        choices=("deterministic", "parallel"),
        default="deterministic",
        help="deterministic: one CPU, time counted in instructions (default); parallel: several CPUs",
    )
    guest.add_argument(
        "--file",
        metavar="PATH",
        action="append",
        default=[],
        help="file or folder that the command needs, copied to the same path; repeat",
    )
    guest.add_argument(
        "--limit", type=float, metavar="S", default=600.0, help="seconds of wall time (600)"
    )
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help="after --, with its arguments"
    )
    parser.epilog = (
        "example: workbench causal run -p request_done -r parse --seconds 30 -- ./server"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Start a command, experiment on it, end it; here or in a guest."""
    command = tuple(arguments.command)
    if not command:
        raise BadSpec(
            "there is no command to run", "as in: workbench causal run -p done -- ./server"
        )
    options.require_points(arguments)
    options.plan(arguments)
    if not arguments.lab:
        made = here.measure(arguments, command=command, scope=arguments.scope)
        return here.finish(made, arguments)
    from workbench.causal.guest import profile_in_guest

    made = profile_in_guest(
        options.words(arguments),
        command,
        here.folder(arguments),
        mode=arguments.mode,
        files=arguments.file,
        limit=arguments.limit,
        overwrite=arguments.overwrite,
        say=output.sayer(arguments.quiet),
    )
    return here.finish(made, arguments)
