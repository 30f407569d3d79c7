"""`workbench bpf gc`: take out what dead workbenches left behind: hooks in processes, memory of namespaces."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument(
        "--named", action="store_true", help="also named namespaces that no process uses"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Restore processes first, then remove memory; exits with 1 when a process could not be restored."""
    from workbench.runtime.attach import collect as collect_hooks
    from workbench.runtime.maps import collect as collect_spaces
    from workbench.runtime.maps.holding import sweep_all

    processes = collect_hooks()
    removed = collect_spaces(named=arguments.named)
    maps = sweep_all()
    if arguments.json:
        print(
            json.dumps(
                {
                    "processes": [asdict(one) for one in processes],
                    "namespaces": [one.to_json() for one in removed],
                    "maps": maps,
                }
            )
        )
    else:
        for process in processes:
            what = process.problem or f"{process.sites} hooks removed"
            what += f", {process.freed:,} bytes of its address space freed" * bool(process.freed)
            what += f", {process.stays:,} bytes stay: a thread may need them" * bool(process.stays)
            print(f"process {process.pid}: {what}")
        for space in removed:
            print(f"namespace {space.name}: {space.bytes:,} bytes freed")
        for name, dropped in maps.items():
            count = len(dropped)
            print(f"namespace {name}: {count} map{'s' * (count != 1)} of dead processes freed")
        if not processes and not removed and not maps:
            print("nothing to collect")
    return 1 if any(one.problem for one in processes) else 0
