"""`workbench bpf links`: what is attached to which process in user space."""

from __future__ import annotations

import argparse
import json
import sys

__all__ = ("configure", "execute")

_SHOWN = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument("namespace", metavar="NAMESPACE", nargs="?", help="this namespace only")
    parser.add_argument("--json", action="store_true", help="print as JSON, as `bpftool link show`")


def execute(arguments: argparse.Namespace) -> int:
    """Print a row for each attachment."""
    from workbench.cli.bpf.text import columns, named, process
    from workbench.runtime.attach import orphans
    from workbench.runtime.link_notes import links

    found = list(links(arguments.namespace))
    for pid, count in sorted(orphans().items()):
        print(
            f"workbench: process {pid} still has {count} hooks of a workbench that was killed\n"
            "  hint: `workbench bpf gc` takes them out",
            file=sys.stderr,
        )
    if arguments.json:
        print(json.dumps([{**one.to_json(), "pids": [process(one.pid)]} for one in found]))
        return 0
    if not found:
        print("no links: no program of this user is attached in user space")
        return 0
    table = [["namespace", "id", "type", "program", "process", "hits", "by", "places"]]
    for one in found:
        places = [place["name"] for place in one.funcs]
        more = f", and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        hits = "unknown" if one.hits is None else f"{one.hits:,}"
        table.append(
            [
                one.namespace, str(one.id), one.type, f"{one.program} ({one.prog_id})", named(process(one.target)),
                hits, named(process(one.pid)), ", ".join(places[:_SHOWN]) + more,
            ]
        )  # fmt: skip
    for line in columns(table, right="lrlllr"):
        print(line)
    return 0
