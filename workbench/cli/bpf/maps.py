"""`workbench bpf maps`: the maps of this user's namespaces."""

from __future__ import annotations

import argparse
import json
from typing import Any

from workbench.runtime.helpers.model import words

__all__ = ("TYPES", "configure", "execute")

TYPES = words(
    "unspec hash array prog_array perf_event_array percpu_hash percpu_array stack_trace cgroup_array lru_hash "
    "lru_percpu_hash lpm_trie array_of_maps hash_of_maps devmap sockmap cpumap xskmap sockhash cgroup_storage "
    "reuseport_sockarray percpu_cgroup_storage queue stack sk_storage devmap_hash struct_ops ringbuf inode_storage "
    "task_storage bloom_filter user_ringbuf cgrp_storage arena"
)
"""Names of `enum bpf_map_type` as bpftool prints them."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument("namespace", metavar="NAMESPACE", nargs="?", help="this namespace only")
    parser.add_argument("--json", action="store_true", help="print as JSON, as `bpftool map show`")


def execute(arguments: argparse.Namespace) -> int:
    """Print a row for each map."""
    from workbench.cli.bpf.text import columns, named, process
    from workbench.runtime.maps import spaces

    rows: list[dict[str, Any]] = []
    for info in spaces():
        if arguments.namespace in (None, info.name):
            rows += [
                {
                    "id": head.id,
                    "type": TYPES[head.type] if head.type < len(TYPES) else str(head.type),
                    "name": head.name.decode(errors="replace"),
                    "flags": head.flags,
                    "bytes_key": head.key_size,
                    "bytes_value": head.value_size,
                    "max_entries": head.max_entries,
                    "bytes_memlock": size,
                    "namespace": info.name,
                    "pids": [process(pid) for pid in info.pids],
                }
                for head, size in sorted(info.segments(), key=lambda one: one[0].id)
            ]
    if arguments.json:
        print(json.dumps(rows))
        return 0
    if not rows:
        print("no maps: no process of this user has an object loaded in user space")
        return 0
    table = [["namespace", "id", "type", "name", "key", "value", "max_entries", "flags", "memory", "processes"]]
    table += [
        [
            row["namespace"], str(row["id"]), row["type"], row["name"], f"{row['bytes_key']} B",
            f"{row['bytes_value']} B", f"{row['max_entries']:,}", f"{row['flags']:#x}",
            f"{row['bytes_memlock']:,} B",
            ", ".join(map(named, row["pids"])) or "none",
        ]
        for row in rows
    ]  # fmt: skip
    for line in columns(table, right="lrllrrrrr"):
        print(line)
    return 0
