"""Command lines of magics: the options of the CLI's own verbs, parsed without ending the kernel."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, NoReturn

from workbench.collectors.options import add_arguments, split_command
from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("HelpShown", "MagicParser", "parse", "record_parser")


class HelpShown(Exception):
    """`--help` or a list was printed instead of doing anything."""


class MagicParser(argparse.ArgumentParser):
    """An argument parser for a magic: errors are raised, and nothing exits."""

    def error(self, message: str) -> NoReturn:
        """A wrong option."""
        usage = " ".join(self.format_usage().removeprefix("usage:").split())
        raise BadSpec(f"{self.prog}: {message}", f"{usage}\n  all options: {self.prog} --help")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """After --help."""
        raise HelpShown(message or "")


def record_parser(kind: str) -> MagicParser:
    """Options of `%%wb_record` (kind ``cell``) or `%wb_record` (kind ``line``): those of `workbench record`.

    Left out: ``--json`` (the recording is a variable). Added: ``--into`` and ``--no-figure``.
    """
    cell = kind == "cell"
    parser = MagicParser(
        prog="%%wb_record" if cell else "%wb_record",
        description=(
            "Record while the cell runs; without --pid or --machine, this notebook's own process."
            if cell
            else "Record a command, a process or the machine."
        ),
    )
    add_arguments(parser, cell=cell, notebook=True)
    shown = parser.add_argument_group("notebook")
    shown.add_argument(
        "--into", default="recording", metavar="NAME", help="variable for the recording (recording)"
    )
    shown.add_argument("--no-figure", action="store_true", help="no flame graph")
    return parser


def parse(parser: MagicParser, line: str, command: bool = False) -> argparse.Namespace:
    """Parse the line of a magic, split as a shell does.

    Raises
    ------
    BadSpec
        Unknown options, unbalanced quotes, or a command where none may be.
    HelpShown
    """
    try:
        words: Sequence[str] = shlex.split(line)
    except ValueError as error:
        raise BadSpec(f"{parser.prog}: {error}", "close the quotation mark") from error
    before, after = split_command(words)
    if after and not command:
        raise BadSpec(
            f"{parser.prog} records the cell, not a command",
            "use one line, with one %: %wb_record ... -- CMD ...",
        )
    arguments = parser.parse_args(before)
    if command:
        arguments.command = [*arguments.command, *after]
    into = getattr(arguments, "into", "recording")
    if not into.isidentifier():
        parser.error(f"--into {into}: not a name of a variable")
    return arguments
