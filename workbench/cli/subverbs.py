"""Verbs that have verbs of their own: a folder with a module per sub-verb, each imported when it is needed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module

__all__ = ("add", "execute")


def add(parser: argparse.ArgumentParser, package: str, subverbs: Mapping[str, str]) -> None:
    """Add the sub-verbs (name and what it does) of a package, whose modules have `configure` and `execute`."""
    verbs = parser.add_subparsers(dest="subverb", metavar="SUBVERB", required=True)
    for name, text in subverbs.items():
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        import_module(f"{package}.{name}").configure(sub)


def execute(package: str, arguments: argparse.Namespace) -> int:
    """Run the sub-verb that was named; its exit status."""
    status: int = import_module(f"{package}.{arguments.subverb}").execute(arguments)
    return status
