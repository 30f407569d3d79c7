"""`workbench lab run -- COMMAND`: one command in a guest of its own."""

from __future__ import annotations

import argparse
import json
import os
import sys

from workbench.cli.lab import say
from workbench.cli.lab.options import add_machine, bring, machine
from workbench.errors import BadSpec

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    add_machine(parser)
    parser.add_argument(
        "--env", metavar="NAME=VALUE", action="append", default=[], help="a variable; repeat"
    )
    parser.add_argument(
        "--limit", type=float, metavar="S", default=600.0, help="seconds for the command (600)"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="folder for the files that the command leaves in the guest's folder $OUT",
    )
    parser.add_argument(
        "--json", action="store_true", help="print everything as JSON at the end, nothing before"
    )
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help="after --, with its arguments"
    )
    parser.epilog = "example: workbench lab run -o out -- workbench record -c cpu -o /out/rec -- redis-benchmark -q"


def execute(arguments: argparse.Namespace) -> int:
    """Run; the command's exit status, 128 + signal, or 124 when its time was over."""
    if not arguments.command:
        raise BadSpec("there is no command to run", "as in: workbench lab run -- uname -r")
    folder = "/tmp"
    with machine(arguments) as vm:
        bring(vm, arguments, folder)
        result = vm.run(
            arguments.command,
            env=dict(map(_variable, arguments.env)),
            folder=folder,
            limit=arguments.limit,
            output=arguments.output,
            show=None if arguments.json else _show,
        )
    for panic in result.panics:
        say(f"booted again, because of this: {panic}")
    if arguments.json:
        print(json.dumps(result.as_json(), indent=1))
    elif result.timed_out:
        say(f"the command was ended after {arguments.limit:g} s (--limit)")
    return result.status


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadSpec(f"--env {text!r} is not NAME=VALUE")
    return name, value


def _show(stream: int, data: bytes) -> None:
    (sys.stdout if stream == 1 else sys.stderr).flush()
    view = memoryview(data)
    while view:
        view = view[os.write(stream, view) :]
