"""`workbench sched status`: which scheduler is in charge."""

from __future__ import annotations

import argparse
import json

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument("--json", action="store_true", help="print as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Print; gives back, too, what controllers had borrowed that were killed."""
    from workbench.cli.bpf.text import named
    from workbench.cli.sched import table
    from workbench.sched.borrowed import give_back_left
    from workbench.sched.cgroups import remove_left
    from workbench.sched.state import holders, read_state

    state = read_state()
    returned, removed = give_back_left(), remove_left()
    by = [{"pid": pid, "comm": name} for pid, name in holders().items()] if state.enabled else []
    if arguments.json:
        found = {
            "state": state.state, "name": state.name, "loads": state.loads, "processes": by,
            "events": state.events, "threads_given_back": returned, "cgroups_removed": removed,
        }  # fmt: skip
        print(json.dumps(found, indent=1))
        return 0
    print(f"state      {state.state}")
    print(f"scheduler  {state.name or 'the kernel’s own'}")
    if by:
        print(f"held by    {', '.join(map(named, by))}")
    print(f"loads      {state.loads} since boot")
    if removed:
        print(f"{removed} cgroups of a killed controller are removed")
    if returned:
        print(f"{returned} threads of a killed controller have their policies back")
    if state.events:
        print(*table([(name, count, "kernel") for name, count in state.events.items()]), sep="\n")
    return 0
