"""`workbench sched run OBJECT -- COMMAND`: a command under a scheduler."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from workbench.errors import BadSpec, NotPermitted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from workbench.sched.scheduler import Scheduler

__all__ = ("configure", "execute")

_STEP = 0.1  # seconds between two looks whether the scheduler is still there
_GRACE = 5.0  # seconds from SIGTERM to SIGKILL for a command whose time is over


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument(
        "object",
        metavar="OBJECT",
        help="object (.bpf.o), C source (.bpf.c), or a name such as example_fifo",
    )
    parser.add_argument(
        "--name", default="", help="which scheduler, if the object has several (first)"
    )
    parser.add_argument(
        "--constant",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="value of a `const volatile` variable of the scheduler; repeat",
    )
    parser.add_argument(
        "--pid", type=int, action="append", default=[], help="take this process as well; repeat"
    )
    parser.add_argument(
        "--cgroup", metavar="DIR", action="append", default=[],
        help="take what is in this cgroup and those below it, and what enters them, as well; repeat",
    )  # fmt: skip
    parser.add_argument(
        "--scope", default="pid", metavar="pid|cgroup[:DIR]",
        help="pid: the command and what it forks (default); cgroup: also what enters the cgroup that is made for it; "
        "cgroup:DIR: the command is started in this cgroup, all in it and below it is taken",
    )  # fmt: skip
    parser.add_argument(
        "--limit",
        type=float,
        metavar="S",
        help="end the command after so many seconds; without a command: how long (until Ctrl-C)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the result as JSON; what the command prints goes to standard error then",
    )
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help="after --, with its arguments"
    )
    parser.epilog = (
        "example: workbench sched run example_fifo --constant slice_ns=4000000 -- ./my-program; without "
        "sched_ext: workbench lab run -- workbench sched run ..."
    )


def execute(arguments: argparse.Namespace) -> int:
    """Run; the command's exit status, 128 + signal, 124 when its time was over, 1 when the scheduler ended first."""
    from workbench.cli.bpf.objects import opened
    from workbench.cli.sched import table
    from workbench.sched.cgroups import MadeCgroup, parse_scope
    from workbench.sched.scheduler import Scheduler
    from workbench.sched.state import read_state

    if not (arguments.command or arguments.pid or arguments.cgroup):
        raise BadSpec(
            "there is nothing to schedule: no command, --pid or --cgroup",
            "as in: workbench sched run example_fifo -- sleep 1",
        )
    if arguments.scope == "cgroup" and not arguments.command:
        raise BadSpec(
            "--scope cgroup makes a cgroup for a command, and there is none",
            "give its folder: --cgroup DIR",
        )
    constants = dict(map(_constant, arguments.constant))
    read_state()  # what this machine lacks is said before anything is compiled
    kind, folder = parse_scope(arguments.scope)
    scheduler_object = opened(arguments.object)
    with _signals(), contextlib.ExitStack() as stack:
        if kind == "cgroup" and folder is None:
            made = MadeCgroup()
            stack.callback(made.remove)
            folder = made.folder
        scheduler = stack.enter_context(
            Scheduler(scheduler_object, name=arguments.name, constants=constants)
        )
        for pid in arguments.pid:
            scheduler.take(pid)
        for cgroup in [*arguments.cgroup, *([folder] if folder else [])]:
            scheduler.take_cgroup(cgroup)
        late, status = False, 0
        if arguments.command:
            process = _started(scheduler, arguments.command, folder, 2 if arguments.json else None)
            late = _wait(process, arguments.limit)
            status = 124 if late else process.returncode
        else:
            _hold(scheduler, arguments.limit)
        counters = scheduler.counters()
        early = not scheduler.in_charge
    status = status if status >= 0 else 128 - status
    ended = scheduler.exit
    if arguments.json:
        found = {
            "scheduler": scheduler.name, "status": status, "timed_out": late, "ended_early": early,
            "exit": {"kind": ended.kind, "code": ended.code, "reason": ended.reason, "message": ended.message},
            "counters": {name: value for name, value, of in counters if of == "scheduler"},
            "events": {name: value for name, value, of in counters if of == "kernel"},
        }  # fmt: skip
        print(json.dumps(found, indent=1))
    else:
        print(*table(counters), sep="\n", file=sys.stderr)
        print(f"{scheduler.name} ended: {ended} (kind {ended.kind})", file=sys.stderr)
    if early:
        print(
            f"workbench: the kernel took {scheduler.name} away before the command ended: {ended}\n"
            "  hint: docs/sched.md lists what schedulers are refused for",
            file=sys.stderr,
        )
    return status or int(early)


def _constant(text: str) -> tuple[str, int]:
    name, equals, value = text.partition("=")
    try:
        if not name or not equals:
            raise ValueError
        return name, int(value.replace("_", ""), 0)
    except ValueError:
        raise BadSpec(
            f"--constant {text!r} is not NAME=VALUE", "VALUE is a whole number: slice_ns=4000000"
        ) from None


def _started(
    scheduler: Scheduler, command: list[str], cgroup: Path | None, stdout: int | None
) -> subprocess.Popen[Any]:
    try:
        return scheduler.start(command, cgroup=cgroup, stdout=stdout)
    except subprocess.SubprocessError as error:
        raise NotPermitted(
            f"cannot start {command[0]!r} in {cgroup}", "the cgroup must take processes"
        ) from error
    except OSError as error:
        raise BadSpec(f"cannot start {command[0]!r}: {error.strerror}") from error


def _hold(scheduler: Scheduler, limit: float | None) -> None:
    """Stay until the time is over, Ctrl-C, or the scheduler's end."""
    end = time.monotonic() + limit if limit else None
    with contextlib.suppress(KeyboardInterrupt):
        while scheduler.in_charge and (end is None or time.monotonic() < end):
            time.sleep(_STEP)


def _wait(process: subprocess.Popen[Any], limit: float | None) -> bool:
    """Wait for the command; whether it had to be ended because its time was over."""
    try:
        process.wait(limit)
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does: the command is ended, the scheduler goes."""

    def stop(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    kinds = (signal.SIGTERM, signal.SIGHUP)
    previous = {
        kind: signal.signal(kind, stop)
        for kind in kinds
        if signal.getsignal(kind) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)
