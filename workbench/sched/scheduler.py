"""Load a sched_ext scheduler, give it tasks, watch it, and be sure that it is gone afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from workbench.errors import MissingCapability, RunFailed, WorkbenchError
from workbench.sched.borrowed import Borrowed, give_back_left
from workbench.sched.cgroups import remove_left, scope_folder
from workbench.sched.processors import alone
from workbench.sched.state import SCHED_EXT, State, read_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    import pandas as pd

    from workbench.kernel.links import Link
    from workbench.kernel.loaded import Loaded
    from workbench.objects.model import BpfObject
    from workbench.sched.follow import Follower

__all__ = ("Exit", "Scheduler")

_END = 10.0  # seconds that the kernel may take to switch a scheduler off


@dataclass(frozen=True)
class Exit:
    """Why a scheduler ended. `kind` 0: it has not; 64 to 1023: by request; 1024 and up: an error, such as 1026, a task
    that was not run for longer than the scheduler's `timeout_ms` (enum scx_exit_kind of kernel/sched/ext_internal.h).
    """

    kind: int
    code: int
    reason: str
    message: str

    @property
    def by_request(self) -> bool:
        """It was switched off by its owner."""
        return 64 <= self.kind < 1024

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}".strip(": ") or (
            "in charge" if not self.kind else f"kind {self.kind}"
        )


class Scheduler:
    """A sched_ext scheduler in charge of its tasks, until `close`; a context manager.

    The kernel takes it away as well when this process dies, when a task starves for longer than the scheduler's
    timeout, and when the scheduler makes an error: its tasks are then back with the kernel's own scheduler.

    Parameters
    ----------
    obj : BpfObject
        With a ``struct sched_ext_ops`` in section ``.struct_ops`` (see bpf/example_fifo.bpf.c).
    name : str, optional
        Which one, if the object has several variables in that section.
    constants : mapping, optional
        Values of ``const volatile`` variables.

    Raises
    ------
    MissingCapability
        The kernel has no sched_ext, or another scheduler is in charge.
    NotPermitted
        Loading needs CAP_BPF and CAP_PERFMON.
    VerifierRejected
        The kernel refuses a program.
    """

    def __init__(
        self, obj: BpfObject, *, name: str = "", constants: Mapping[str, int | bool] | None = None
    ) -> None:
        from workbench.kernel.loaded import load

        before = read_state()
        if before.enabled:
            raise _occupied(before)
        names = obj.struct_ops
        if not names or (name and name not in names):
            raise MissingCapability(
                f"{obj.name} has no scheduler{f' {name!r}' if name else ''}",
                "a scheduler is a `struct sched_ext_ops` in SEC('.struct_ops')",
            )
        self.name = name or names[0]
        self.ended: Exit | None = None
        #: A scheduler that does not mind processors that come and go.
        self._hotplug = any(p.section.endswith("/cpu_online") for p in obj.programs)
        give_back_left()
        remove_left()
        self._borrowed = Borrowed()
        self._followed: dict[Path, Follower] = {}
        self.loaded: Loaded = load(obj, constants=constants or {})
        try:
            with alone(self._hotplug):
                self._link = self._register()
            self._load = read_state().loads
        except BaseException:
            self.loaded.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def state(self) -> State:
        """The kernel's view; see `workbench.sched.state.read_state`."""
        return read_state()

    @property
    def in_charge(self) -> bool:
        """False once the kernel has taken the scheduler away, whatever the reason."""
        if self.ended is not None:
            return False
        state = read_state()
        return state.enabled and state.loads == self._load and self._noted().kind == 0

    @property
    def exit(self) -> Exit:
        """Why it ended, as its `exit` callback noted it (bpf/scheduler.h, `note_exit`); kind 0 while it is in charge.

        Of a scheduler that notes nothing, only that it ended is known: kind -1.
        """
        if self.ended is not None:
            return self.ended
        noted = self._noted()
        if noted.kind or self.in_charge:
            return noted
        return self._noted_in_time()

    def _noted(self) -> Exit:
        raw = self.loaded.globals.get("scheduler_exit")
        if raw is None:
            return Exit(0, 0, "", "")
        texts = [
            bytes(raw[field]).split(b"\0")[0].decode("utf-8", "replace")
            for field in ("reason", "message")
        ]
        return Exit(int(raw["kind"]), int(raw["code"]), *texts)

    def _noted_in_time(self) -> Exit:
        noted = self._noted()  # again: it may have come between two looks
        return noted if noted.kind else Exit(-1, 0, "", "the scheduler notes no reason")

    def _register(self) -> Link:
        """Put it in charge."""
        try:
            return self.loaded.attach_struct_ops(self.name)
        except WorkbenchError as error:
            state = read_state()
            if state.enabled:  # somebody was faster
                raise _occupied(state) from error
            if os.strerror(errno.EBUSY) in error.message:
                error.hint = (
                    "there can be one scheduler at a time, and one is coming or going: try again"
                )
            elif (noted := self._noted()).kind:
                error.message += f": {noted}"
            raise

    def statistics(self) -> pd.DataFrame:
        """The scheduler's counters now, and the kernel's own: one row per counter.

        Returns
        -------
        DataFrame
            ``counter`` (name; members of structures with a dot), ``value`` (int64), ``source`` ("scheduler": its
            global integer variables; "kernel": /sys/kernel/sched_ext/root/events).
        """
        import pandas as pd

        return pd.DataFrame(self.counters(), columns=["counter", "value", "source"])

    def counters(self) -> list[tuple[str, int, str]]:
        """What `statistics` shows, as tuples."""
        rows: list[tuple[str, int, str]] = []
        for variable, view in self.loaded.globals.items():
            if variable == "scheduler_exit" or view.shape != ():
                continue
            if view.dtype.names:
                rows += [
                    (f"{variable}.{field}", int(view[field]), "scheduler")
                    for field in view.dtype.names
                    if view.dtype[field].kind in "iu"
                ]
            elif view.dtype.kind in "iu":
                rows.append((variable, int(view[()]), "scheduler"))
        rows += [(event, count, "kernel") for event, count in read_state().events.items()]
        return rows

    def watch(
        self, seconds: float, hertz: float = 10.0, *, until: subprocess.Popen[Any] | None = None
    ) -> pd.DataFrame:
        """Read the counters at intervals; ends early when the scheduler does, or the process `until`.

        Parameters
        ----------
        seconds : float
            How long at most.
        hertz : float
            Readings per second.
        until : Popen, optional
            A process whose end ends the watching.

        Returns
        -------
        DataFrame
            As `statistics`, with ``time`` (int64, ns of CLOCK_MONOTONIC) first: a row per reading and counter.
        """
        rows = self.readings(seconds, hertz, until=until)
        import pandas as pd  # not before: where there is one CPU, the import would hold up the tasks

        return pd.DataFrame(rows, columns=["time", "counter", "value", "source"])

    def readings(
        self, seconds: float, hertz: float = 10.0, *, until: subprocess.Popen[Any] | None = None
    ) -> list[tuple[int, str, int, str]]:
        """What `watch` shows, as tuples."""
        rows: list[tuple[int, str, int, str]] = []
        begin, step = time.monotonic(), 1 / hertz
        for number in range(int(seconds * hertz) + 1):
            if (wait := begin + number * step - time.monotonic()) > 0:
                if until is None:
                    time.sleep(wait)
                else:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        until.wait(wait)
            now = time.monotonic_ns()
            rows += [(now, *one) for one in self.counters()]
            if not self.in_charge or (until is not None and until.poll() is not None):
                break
        return rows

    def take(self, pid: int) -> None:
        """Bring a process with all its threads, and what it forks later, under the scheduler; `close` gives it back.

        Raises
        ------
        NotPermitted
            It belongs to another user.
        TargetGone
            It has ended.
        """
        self._borrowed.take(pid)

    def lent(self) -> contextlib.AbstractContextManager[None]:
        """Within it, everything that was taken is under the kernel's own scheduler, for comparison."""
        return self._borrowed.lent()

    def take_cgroup(self, cgroup: str | Path) -> list[int]:
        """Make a cgroup (version 2) with those below it the scope: every process that is in it, as `take` does.

        What they fork follows by itself; what is moved in later is taken within about a millisecond, what is moved out
        is given back (see `workbench.sched.follow`).

        Returns
        -------
        list of int
            The processes that this call took.

        Raises
        ------
        BadSpec
            It is the root of all cgroups.
        NotPermitted
            A process belongs to another user.
        TargetGone
            There is no such cgroup.
        """
        from workbench.sched.follow import Follower

        folder = scope_folder(cgroup)
        if folder in self._followed:
            return []
        follower = self._followed[folder] = Follower(folder, self._borrowed)
        return follower.taken

    def start(
        self, command: Sequence[str], *, cgroup: Path | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a program that is under the scheduler from its first instruction; `options` are those of Popen.

        `cgroup`: a folder that it is in from its first instruction, too.
        """

        def enter() -> None:
            os.sched_setscheduler(0, SCHED_EXT, os.sched_param(0))
            if cgroup is not None:
                (cgroup / "cgroup.procs").write_text("0")

        process = subprocess.Popen(command, preexec_fn=enter, **options)
        self._borrowed.started(process.pid, os.sched_getscheduler(0))
        return process

    def close(self) -> None:
        """Give the tasks back and switch the scheduler off; returns when the kernel has done so. Safe to call twice.

        Raises
        ------
        RunFailed
            The kernel has not switched it off within ten seconds.
        """
        followed, self._followed = self._followed, {}
        for follower in followed.values():
            follower.close()
        self._borrowed.give_back()
        if not self._link.attached:
            return
        early = self.exit if not self.in_charge else None
        with alone(self._hotplug):
            self._link.close()
            self._wait_disabled()
        self.ended = early or self._noted_in_time()
        self.loaded.close()

    def _wait_disabled(self) -> None:
        end = time.monotonic() + _END
        while (state := read_state()).enabled and state.loads == self._load:
            if time.monotonic() > end:
                raise RunFailed(
                    f"the scheduler {self.name!r} is still {state.state}",
                    "dmesg says what it waits for; SysRq-S switches every sched_ext scheduler off",
                )
            time.sleep(0.01)


def _occupied(state: State) -> MissingCapability:
    return MissingCapability(
        f"the scheduler {state.name or 'of somebody else'!r} is {state.state} on this machine",
        "there can be one at a time: end the process that holds it (`workbench sched status` names both)",
    )
