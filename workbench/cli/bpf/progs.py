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
    from workbench.runtime.inventory import programs

    found = list(programs(arguments.namespace))
    if arguments.json:
        print(json.dumps([one.to_json() for one in found]))
        return 0
    if not found:
        print("no programs: no process of this user has an object loaded in user space")
    for one in found:
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(one.loaded_at))
        print(
            f"{one.namespace}/{one.id}: {one.type}  name {one.name}  tag {one.tag}"
            f"{'  gpl' if one.gpl_compatible else ''}\n"
            f"\tloaded_at {when}  uid {one.uid}  pid {one.pid}  object {one.object}\n"
            f"\txlated {one.bytes_xlated}B  map_ids {','.join(map(str, one.map_ids)) or 'none'}"
        )
    return 0
