"""`workbench bpf progs`: the programs that this user's processes have loaded in user space."""

from __future__ import annotations

import argparse
import json
import time

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument("namespace", metavar="NAMESPACE", nargs="?", help="this namespace only")
    parser.add_argument("--json", action="store_true", help="print as JSON, as `bpftool prog show`")


def execute(arguments: argparse.Namespace) -> int:
    """Print a row for each program."""
    from workbench.cli.bpf.text import columns, named, process
    from workbench.runtime.inventory import programs

    found = list(programs(arguments.namespace))
    if arguments.json:
        print(json.dumps([{**one.to_json(), "pids": [process(one.pid)]} for one in found]))
        return 0
    if not found:
        print("no programs: no process of this user has an object loaded in user space")
        return 0
    table = [["namespace", "id", "type", "name", "tag", "code", "maps", "loaded", "by", "object", "runs"]]
    table += [
        [
            one.namespace, str(one.id), one.type, one.name, one.tag, f"{one.bytes_xlated:,} B",
            ",".join(map(str, one.map_ids)) or "none",
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.loaded_at)),
            named(process(one.pid)), one.object,
            ", ".join(f"{tier} in {pid}" for pid, tier in one.tiers.items()) or "nowhere yet",
        ]
        for one in found
    ]  # fmt: skip
    for line in columns(table, right="lrlllr"):
        print(line)
    return 0
