"""`workbench doctor`: what this machine can do, each row proven by trying."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from workbench.host import NAMES, Row, doctor

__all__ = ("HELP", "configure", "execute")

HELP = "show what this machine can do, why not, and what to do about it"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"rows to try (all): {', '.join(NAMES)}"
    )
    parser.add_argument(
        "--json", action="store_true", help="a JSON list of {name, ok, reason, remedy}"
    )


def execute(args: argparse.Namespace) -> int:
    """Print the table; a machine that lacks something is no failure of the command."""
    terminal = sys.stderr.isatty()
    table = doctor(args.names, _counter(len(args.names) or len(NAMES)) if terminal else None)
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    print(table.to_json() if args.json else table)
    return 0


def _counter(total: int) -> Callable[[Row], None]:
    """A line that counts the rows tried; some of them take seconds."""
    tried = 0

    def show(row: Row) -> None:
        nonlocal tried
        tried += 1
        print(f"\r\033[Ktried {tried} of {total}: {row.name}", end="", file=sys.stderr, flush=True)

    return show
