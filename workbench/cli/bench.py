"""`workbench bench`."""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import pkgutil
import sys
from importlib import import_module
from typing import Any

import workbench.bench
from workbench.errors import BadSpec

__all__ = ("benchmarks", "configure", "execute")

OPTIONS: dict[str, dict[str, Any]] = {
    "mode": {
        "choices": ("deterministic", "parallel"),
        "help": "how the guest runs, of benchmarks that use one",
    },
    "shapes": {"metavar": "NAME,...", "help": "only these shapes of the workload"},
    "servers": {"metavar": "NAME,...", "help": "only these demonstrations"},
    "recordings": {"metavar": "DIR", "help": "keep the recordings of demonstrations here"},
    "repeats": {"type": int, "help": "how often everything is measured"},
    "boots": {"type": int, "help": "how many guests are booted one after the other"},
    "cpus": {"type": int, "help": "processors of a guest"},
    "output": {"metavar": "FILE", "help": "append what is measured, one JSON object a line"},
}
"""Options that a benchmark has if its `run` has a parameter of that name."""


def benchmarks() -> dict[str, str]:
    """Names and one-line descriptions of all benchmarks."""
    found = {}
    for module in pkgutil.iter_modules(workbench.bench.__path__):
        loaded = import_module(f"workbench.bench.{module.name}")
        if hasattr(loaded, "DESCRIPTION"):
            found[module.name.removesuffix("_time").replace("_", "-")] = loaded.DESCRIPTION
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("name", nargs="?", help="benchmark to run; without it, list them")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    for name, about in OPTIONS.items():
        parser.add_argument(f"--{name}", **about)


def execute(arguments: argparse.Namespace) -> int:
    """Run one benchmark; 1 when a check fails."""
    known = benchmarks()
    if not arguments.name:
        if arguments.json:
            print(json.dumps(known))
        else:
            width = max(map(len, known))
            print("\n".join(f"{name.ljust(width)}  {text}" for name, text in known.items()))
        return 0
    if arguments.name not in known:
        near = difflib.get_close_matches(arguments.name, known, 1)
        raise BadSpec(
            f"there is no benchmark {arguments.name!r}",
            (f"did you mean {near[0]!r}? " if near else "") + f"benchmarks: {', '.join(known)}",
        )
    module = "import_time" if arguments.name == "import" else arguments.name.replace("-", "_")
    run = import_module(f"workbench.bench.{module}").run
    given = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    if strange := [f"--{name}" for name in given if name not in inspect.signature(run).parameters]:
        raise BadSpec(f"the benchmark {arguments.name} has no {', '.join(strange)}", "leave it out")
    if sys.stderr.isatty():
        print(f"measuring: {known[arguments.name]} ...", file=sys.stderr)
    result = run(**given)
    print(json.dumps(result.to_json()) if arguments.json else result)
    return 0 if result.ok else 1
