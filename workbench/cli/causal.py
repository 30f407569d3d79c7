"""`workbench causal run -- COMMAND` and `workbench causal attach --pid PID`."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from workbench.causal.plan import Plan
    from workbench.frames.recording import Recording
    from workbench.sched.schedcoz import Parameters

__all__ = ("configure", "execute")

VOID = 1
"""Exit status of a run that cannot be believed."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-verbs and their options."""
    verbs = parser.add_subparsers(dest="subverb", metavar="SUBVERB", required=True)
    run = verbs.add_parser(
        "run",
        help="start a command, experiment on it, end it",
        description="Start a command, experiment on it, end it.",
    )
    _options(run)
    run.add_argument(
        "--scope",
        default="pid",
        metavar="pid|cgroup[:DIR]",
        help="pid: the command and what it forks (default); cgroup: all that enters the cgroup that is made for it; "
        "cgroup:DIR: the command is started in this cgroup, whose processes take part",
    )
    guest = run.add_argument_group("in a guest, for machines without sched_ext")
    guest.add_argument("--lab", action="store_true", help="run in a guest of `workbench lab`")
    guest.add_argument(
        "--mode",
        choices=("deterministic", "parallel"),
        default="deterministic",
        help="deterministic: one CPU, time counted in instructions (default); parallel: several CPUs",
    )
    guest.add_argument(
        "--file",
        metavar="PATH",
        action="append",
        default=[],
        help="file or folder that the command needs, copied to the same path; repeat",
    )
    guest.add_argument(
        "--limit", type=float, metavar="S", default=600.0, help="seconds of wall time (600)"
    )
    run.add_argument("command", nargs="*", metavar="COMMAND", help="after --, with its arguments")
    run.epilog = "example: workbench causal run -p request_done -r parse --seconds 30 -- ./server"
    attach = verbs.add_parser(
        "attach",
        help="experiment on a running process or a cgroup, which goes on afterwards",
        description="Experiment on a running process or a cgroup, which goes on afterwards.",
    )
    who = attach.add_mutually_exclusive_group(required=True)
    who.add_argument("--pid", type=int, metavar="PID", help="the process, with what it forks")
    who.add_argument(
        "--cgroup",
        metavar="DIR",
        help="what is in this cgroup and those below it, and what enters them",
    )
    _options(attach)


def _options(parser: argparse.ArgumentParser) -> None:
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


def execute(arguments: argparse.Namespace) -> int:
    """Experiment; 1 if the run is void, 130 after Ctrl-C, with what was measured until then kept."""
    command = tuple(getattr(arguments, "command", ()))
    if arguments.subverb == "run" and not command:
        raise BadSpec(
            "there is no command to run", "as in: workbench causal run -p done -- ./server"
        )
    if not arguments.progress and not arguments.latency:
        raise BadSpec(
            "no progress point is given",
            "--progress FUNCTION: what is passed once per unit of work; or --latency BEGIN,END",
        )
    _plan(arguments)
    output = arguments.output or _folder()
    if getattr(arguments, "lab", False):
        from workbench.causal.guest import profile_in_guest

        recording = profile_in_guest(
            _words(arguments),
            command,
            output,
            mode=arguments.mode,
            files=arguments.file,
            limit=arguments.limit,
            overwrite=arguments.overwrite,
            say=_say(arguments.quiet),
        )
    else:
        from workbench.causal.checks import ALL, NONE
        from workbench.causal.session import profile

        with _signals():
            recording = profile(
                arguments.progress,
                arguments.region,
                command=command,
                pid=getattr(arguments, "pid", None),
                latency=arguments.latency,
                within=arguments.within,
                scope=_scope(arguments),
                backend=arguments.backend,
                output=output,
                plan=_plan(arguments),
                parameters=_parameters(arguments),
                checks=NONE if arguments.no_checks else ALL,
                tolerance=arguments.tolerance,
                overwrite=arguments.overwrite,
                stdout=2 if arguments.json else None,
                say=_say(arguments.quiet),
            )
    if arguments.coz:
        from pathlib import Path

        Path(arguments.coz).write_bytes(recording.file("profile.coz"))
    return _print(recording, arguments.json)


def _scope(arguments: argparse.Namespace) -> str:
    if arguments.subverb == "run":
        return str(arguments.scope)
    return f"cgroup:{arguments.cgroup}" if arguments.cgroup else "pid"


def _folder() -> str:
    import tempfile

    return f"{tempfile.mkdtemp(prefix='workbench-')}/causal"


def _speedups(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in text.split(",")) if text else ()
    except ValueError:
        raise BadSpec(f"--speedups {text!r} is no list of numbers", "as in 0,0.25,0.5") from None


def _plan(arguments: argparse.Namespace) -> Plan:
    from workbench.causal.plan import Plan
    from workbench.causal.regions import Region

    return Plan(
        tuple(map(Region, arguments.region)) or (Region("chosen by sampling"),),
        speedups=_speedups(arguments.speedups),
        shortest=arguments.shortest,
        seconds=arguments.seconds,
        rounds=arguments.rounds,
        seed=arguments.seed,
    )


def _parameters(arguments: argparse.Namespace) -> Parameters:
    from dataclasses import replace

    from workbench.causal.backend import choose, defaults

    known = defaults(choose(arguments.backend, _scope(arguments)))
    given = {"period": arguments.sample_period, "min_debt": arguments.min_debt}
    known = replace(known, **{k: round(1000 * v) for k, v in given.items() if v is not None})
    if known.period < 10_000 or known.min_debt <= 0:
        raise BadSpec("--sample-period is at least 10 us, --min-debt more than 0")
    if arguments.within and not arguments.callers:
        raise BadSpec("--within is about callers", "add --callers 16, say")
    return replace(known, frames=arguments.callers)


def _words(arguments: argparse.Namespace) -> list[str]:
    """Options of this run for the one in the guest."""
    words = [word for one in arguments.progress for word in ("-p", one)]
    words += [word for one in arguments.latency for word in ("--latency", one)]
    words += [word for one in arguments.region for word in ("-r", one)]
    words += [word for one in arguments.within for word in ("--within", one)]
    words += ["--scope", arguments.scope, "--backend", arguments.backend]
    for name in (
        "seconds",
        "rounds",
        "shortest",
        "seed",
        "tolerance",
        "sample_period",
        "min_debt",
        "callers",
    ):
        if getattr(arguments, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    words += ["--no-checks"] if arguments.no_checks else []
    return [*words, *(["--speedups", arguments.speedups] if arguments.speedups else [])]


def _say(quiet: bool) -> Any:
    if quiet:
        return None
    live = sys.stderr.isatty()

    def say(text: str) -> None:
        if live:
            print(f"\r\x1b[Kcausal: {text}", end="", file=sys.stderr, flush=True)
        else:
            print(f"causal: {text}", file=sys.stderr, flush=True)

    return say


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does."""
    previous = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _print(recording: Recording, as_json: bool) -> int:
    notes = recording.manifest.notes
    gate, warnings = notes.get("gate", {}), notes.get("warnings", [])
    table = recording.frame("causal_profile")
    if as_json:
        print(
            json.dumps(
                {
                    "path": str(recording.path),
                    "status": recording.status,
                    "backend": notes.get("backend", {}),
                    "gate": gate,
                    "warnings": warnings,
                    "experiments": int(recording.rows["experiments"]),
                    "profile": json.loads(table.to_json(orient="records", double_precision=15)),
                }
            )
        )
    else:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        print(_table(table))
        for warning in warnings:
            print(f"warning: {warning}")
        print(f"{'' if gate.get('ok') else 'VOID: '}{gate.get('reason', '')}")
        print(f"recording: {recording.path}")
        if backend := notes.get("backend"):
            print(f"backend: {backend['name']} ({backend['why']})")
        if recording.status != "complete":
            print(f"{recording.status}: {recording.manifest.reason}")
    if recording.status != "complete":
        return 130 if recording.status == "interrupted" else 1
    return 0 if gate.get("ok") else VOID


def _table(frame: pd.DataFrame) -> str:
    """The regions that promise most first."""
    if frame.empty:
        return "no experiment counts: see the frame `experiments` for the reasons"
    best = frame.groupby(["point", "region"], observed=True)["change"].transform("min")
    ordered = frame.assign(best=best.fillna(0)).sort_values(
        ["point", "best", "region", "speedup"], kind="stable"
    )
    rows = [("progress point", "region", "faster", "period", "change", "95 % interval", "n")]
    for one in ordered.to_dict("records"):
        low, high = float(one["low"]), float(one["high"])
        interval = f"{low:+.1f} to {high:+.1f} %" if low == low else "-"
        change = float(one["change"])
        rows.append(
            (
                str(one["point"]),
                str(one["region"]),
                f"{float(one['speedup']):.0%}",
                f"{float(one['period']) / 1e6:.3f} ms",
                f"{change:+.1f} %" if change == change else "-",
                interval,
                str(one["experiments"]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
