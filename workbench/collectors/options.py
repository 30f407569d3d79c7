"""The options of recording: one argparse for `workbench record` and for `%%wb_record`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.collectors import registry
from workbench.collectors.backend import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("add_arguments", "keywords", "split_command")


class _ListCollectors(argparse.Action):
    def __call__(self, parser: Any, *_: Any) -> None:
        # Collectors of one family share a line of usage.
        for usage, text in dict.fromkeys((usage, text) for _, text, usage in registry.summary()):
            print(f"{usage}\n    {text}")
        parser.exit()


def add_arguments(
    parser: argparse.ArgumentParser, *, cell: bool = False, notebook: bool = False
) -> None:
    """Add the options of a recording.

    Parameters
    ----------
    parser : ArgumentParser
    cell : bool
        For a cell magic: no command, and the target defaults to the notebook's own process.
    notebook : bool
        For a magic: -c defaults to CPU samples, and -o to a temporary folder.
    """
    parser.add_argument(
        "-c", "--collect", action="append", metavar="SPEC", required=not notebook,
        help="what to collect, NAME[:ARGUMENT][,KEY=VALUE...], repeatable; see --collectors",
    )  # fmt: skip
    parser.add_argument(
        "--collectors", action=_ListCollectors, nargs=0, help="list collectors with their options"
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", required=not notebook, help="folder of the recording"
    )
    target = parser.add_argument_group("target (one of)")
    target.add_argument(
        "-p", "--pid", type=int, metavar="N", help="a running process, all its threads and children"
    )
    target.add_argument("--machine", action="store_true", help="the whole machine")
    if not cell:
        target.add_argument("command", nargs="*", metavar="-- CMD ...", help="a command to start")
    parser.add_argument(
        "--backend", choices=BACKENDS, default="auto",
        help="where programs run: kernel, userspace (no privilege needed; enters the target), or auto: the kernel if "
        "this user may (default)",
    )  # fmt: skip
    parser.add_argument("-s", "--seconds", type=float, metavar="S", help="end after S seconds")
    parser.add_argument(
        "--no-follow", action="store_true", help="leave out processes that the target forks"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier recording at DIR"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress line")


def split_command(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options before the first `--`, the command after it, so that the command's own options are left alone."""
    words = list(words)
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def keywords(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `Recorder` from parsed options."""
    return {
        "collect": arguments.collect,
        "output": Path(arguments.output) if arguments.output else None,
        "pid": arguments.pid,
        "machine": arguments.machine,
        "command": tuple(getattr(arguments, "command", ()) or ()),
        "backend": arguments.backend,
        "seconds": arguments.seconds,
        "follow": not arguments.no_follow,
        "overwrite": arguments.overwrite,
    }
