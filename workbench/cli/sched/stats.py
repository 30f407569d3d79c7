"""`workbench sched stats`: what the kernel counts of the scheduler in charge."""

from __future__ import annotations

import argparse
import json
import time

from workbench.errors import BadSpec

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument(
        "--seconds", type=float, default=0.0, metavar="S", help="repeat for so long (once)"
    )
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="S", help="seconds between readings (1)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object per line and reading"
    )
    parser.epilog = (
        "a scheduler's own counters are read by the process that loaded it: `workbench sched run`"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print until the time is over or no scheduler is left; 1 if there was none."""
    from workbench.cli.sched import table
    from workbench.sched.state import read_state

    if arguments.interval <= 0 or arguments.seconds < 0:
        raise BadSpec("--interval must be more than 0 and --seconds not negative")
    end, before, seen = time.monotonic() + arguments.seconds, dict[str, int](), False
    while True:
        state = read_state()
        if not state.enabled:
            break
        if arguments.json:
            found = {"time": time.monotonic_ns(), "name": state.name, "events": state.events}
            print(json.dumps(found), flush=True)
        else:
            grown = {name: count - before.get(name, 0) for name, count in state.events.items()}
            head = f"{state.name}{', since the last' if seen else ''}"
            print(head, *table([(n, c, "kernel") for n, c in grown.items()]), sep="\n", flush=True)
        before, seen = state.events, True
        if time.monotonic() + arguments.interval > end:
            break
        time.sleep(arguments.interval)
    if not seen and not arguments.json:
        print("no scheduler is loaded: the kernel's own is in charge")
    return 0 if seen else 1
