"""`python -m workbench.causal.demonstrations NAME...`: measure on this machine; a JSON object per line.

`workbench bench causal-servers` does it in a guest.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from workbench.causal.demonstrations.catalogue import demonstration
from workbench.causal.demonstrations.measure import measure
from workbench.sched.schedcoz import Parameters


def main(words: list[str]) -> int:
    """Measure what is named; 0."""
    parser = argparse.ArgumentParser(prog="workbench.causal.demonstrations")
    parser.add_argument("names", nargs="+")
    parser.add_argument(
        "--programs", type=Path, required=True, help="folder of the project's programs"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--period", type=int, default=200_000, help="ns between two samples")
    parser.add_argument("--min-debt", type=int, default=500_000, help="ns")
    given = parser.parse_args(words)
    for name in given.names:
        with tempfile.TemporaryDirectory(prefix="workbench-demonstration-") as folder:
            recording, found = measure(
                demonstration(name),
                given.programs,
                Path(folder),
                given.output / name,
                rounds=given.rounds,
                seconds=given.seconds,
                parameters=Parameters(period=given.period, min_debt=given.min_debt),
                say=lambda text: print(text, file=sys.stderr, flush=True),
            )
        rows = [one.to_json() for one in found]
        print(
            json.dumps({"server": name, "recording": str(recording.path), "gains": rows}),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
