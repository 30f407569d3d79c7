"""Options of an experiment, the same for every sub-verb, and what they mean."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from workbench.errors import BadSpec

if TYPE_CHECKING:
    from workbench.causal.plan import Plan
    from workbench.sched.schedcoz import Parameters

__all__ = ("add_options", "parameters", "plan", "require_points", "words")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all sub-verbs have."""
    parser.add_argument(
        "-p",
        "--progress",
        metavar="SPEC",
        action="append",
        default=[],
        help="what is passed once per unit of work: FUNCTION, LIBRARY:FUNCTION, FILE:LINE, "
        "usdt:PROVIDER:NAME; repeat",
    )
    parser.add_argument(
        "--latency",
        metavar="BEGIN,END",
        action="append",
        default=[],
        help="time from passing one point to passing another, each as for --progress; repeat",
    )
    parser.add_argument(
        "-r",
        "--region",
        metavar="SPEC",
        action="append",
        default=[],
        help="what to speed up: FUNCTION, LIBRARY:FUNCTION, FILE:LINE, LIBRARY:0xLOW-0xHIGH; repeat; "
        "without it, sampling chooses",
    )
    parser.add_argument(
        "--callers",
        type=int,
        metavar="N",
        default=0,
        help="look at N callers (31 at most) for the innermost code in scope, where the instruction is out of it (0)",
    )
    parser.add_argument(
        "--within",
        metavar="PATTERN",
        action="append",
        default=[],
        help="with --callers: files whose code is in scope, by name or path; repeat (the program itself)",
    )
    parser.add_argument(
        "--speedups",
        metavar="LIST",
        help="such as 0,0.25,0.5: each in turn, in shuffled order; without it, drawn as Coz does",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        default=0.0,
        help="begin no experiment after this time (until the target ends)",
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", default=0, help="end after N times all --speedups"
    )
    parser.add_argument(
        "--shortest", type=float, metavar="S", default=0.5, help="of an experiment (0.5)"
    )
    parser.add_argument(
        "--settle",
        type=float,
        metavar="PART",
        default=0.3,
        help="of an experiment's length, which passes in it before progress is counted (0.3)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the order and the intervals (1)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="PERCENT",
        default=3.0,
        help="the run is void if its halves are further apart at 0 %% (3)",
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "scheduler", "userspace"),
        default="auto",
        help="scheduler: sched_ext; userspace: the threads of one process, without it; auto: the scheduler where the "
        "kernel has sched_ext (default)",
    )
    parser.add_argument(
        "--sample-period",
        type=float,
        metavar="US",
        help="of a CPU (scheduler: 1000), of a thread's CPU time (userspace: 250)",
    )
    parser.add_argument(
        "--min-debt",
        type=float,
        metavar="US",
        help="a task that owes less is not withheld (500, userspace: 250); about 5 %% of the progress period",
    )
    parser.add_argument(
        "--no-checks",
        action="store_true",
        help="neither measure what stopping a task costs on this machine (half a minute, once per boot, where it has "
        "several CPUs) nor compare the period at 0 %% with that under the kernel's own scheduler",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="folder of the recording")
    parser.add_argument("--overwrite", action="store_true", help="replace a recording")
    parser.add_argument("--coz", metavar="FILE", help="write the profile in Coz's format, too")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing meanwhile")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def require_points(arguments: argparse.Namespace) -> None:
    """Raise BadSpec unless there is a progress point or a latency."""
    if not arguments.progress and not arguments.latency:
        raise BadSpec(
            "no progress point is given",
            "--progress FUNCTION: what is passed once per unit of work; or --latency BEGIN,END",
        )


def plan(arguments: argparse.Namespace) -> Plan:
    """What is to be measured."""
    from workbench.causal.plan import Plan
    from workbench.causal.regions import Region

    return Plan(
        tuple(map(Region, arguments.region)) or (Region("chosen by sampling"),),
        speedups=_speedups(arguments.speedups),
        shortest=arguments.shortest,
        settle=arguments.settle,
        seconds=arguments.seconds,
        rounds=arguments.rounds,
        seed=arguments.seed,
    )


def _speedups(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in text.split(",")) if text else ()
    except ValueError:
        raise BadSpec(f"--speedups {text!r} is no list of numbers", "as in 0,0.25,0.5") from None


def parameters(arguments: argparse.Namespace, scope: str) -> Parameters:
    """How experiments are carried out."""
    from dataclasses import replace

    from workbench.causal.backend import choose, defaults

    known = defaults(choose(arguments.backend, scope))
    given = {"period": arguments.sample_period, "min_debt": arguments.min_debt}
    known = replace(known, **{k: round(1000 * v) for k, v in given.items() if v is not None})
    if known.period < 10_000 or known.min_debt <= 0:
        raise BadSpec("--sample-period is at least 10 us, --min-debt more than 0")
    if arguments.within and not arguments.callers:
        raise BadSpec("--within is about callers", "add --callers 16, say")
    return replace(known, frames=arguments.callers)


def words(arguments: argparse.Namespace) -> list[str]:
    """Options of this run for the one in the guest."""
    found = [word for one in arguments.progress for word in ("-p", one)]
    found += [word for one in arguments.latency for word in ("--latency", one)]
    found += [word for one in arguments.region for word in ("-r", one)]
    found += [word for one in arguments.within for word in ("--within", one)]
    found += ["--scope", arguments.scope, "--backend", arguments.backend]
    for name in (
        "seconds",
        "rounds",
        "shortest",
        "settle",
        "seed",
        "tolerance",
        "sample_period",
        "min_debt",
        "callers",
    ):
        if getattr(arguments, name) is not None:
            found += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    found += ["--no-checks"] if arguments.no_checks else []
    return [*found, *(["--speedups", arguments.speedups] if arguments.speedups else [])]
