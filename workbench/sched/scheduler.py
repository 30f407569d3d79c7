"""Load a sched_ext scheduler, give it tasks, watch it, and be sure that it is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from workbench.errors import MissingCapability, RunFailed
from workbench.sched.state import SCHED_EXT, State, read_state, set_policy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import pandas as pd

    from workbench.kernel.loaded import Loaded
    from workbench.objects.model import BpfObject

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
            raise MissingCapability(
                f"the scheduler {before.name or 'of somebody else'!r} is {before.state} on this machine",
                "there can be one at a time: end it first (`cat /sys/kernel/sched_ext/root/ops` names it)",
            )
        names = obj.struct_ops
        if not names or (name and name not in names):
            raise MissingCapability(
                f"{obj.name} has no scheduler{f' {name!r}' if name else ''}",
                "a scheduler is a `struct sched_ext_ops` in SEC('.struct_ops')",
            )
        self.name = name or names[0]
        self._borrowed: dict[int, int] = {}
        self.ended: Exit | None = None
        self.loaded: Loaded = load(obj, constants=constants or {})
        try:
            self._link = self.loaded.attach_struct_ops(self.name)
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
        state = read_state()
        return state.enabled and state.loads == self._load and self.exit.kind == 0

    @property
    def exit(self) -> Exit:
        """Why it ended, as its `exit` callback noted it (bpf/scheduler.h, `note_exit`)."""
        raw = self.loaded.globals.get("scheduler_exit")
        if raw is None:
            return Exit(0, 0, "", "")
        texts = [
            bytes(raw[field]).split(b"\0")[0].decode("utf-8", "replace")
            for field in ("reason", "message")
        ]
        return Exit(int(raw["kind"]), int(raw["code"]), *texts)

    def statistics(self) -> pd.DataFrame:
        """The scheduler's counters now, and the kernel's own: one row per counter.

        Returns
        -------
        DataFrame
            ``counter`` (name; members of structures with a dot), ``value`` (int64), ``source`` ("scheduler" or
            "kernel").
        """
        import pandas as pd

        rows: list[tuple[str, int, str]] = []
        for variable, view in self.loaded.globals.items():
            if view.dtype.names and view.shape == ():
                rows += [
                    (f"{variable}.{field}", int(view[field]), "scheduler")
                    for field in view.dtype.names
                    if view.dtype[field].kind in "iu" and variable != "scheduler_exit"
                ]
            elif view.shape == () and view.dtype.kind in "iu":
                rows.append((variable, int(view[()]), "scheduler"))
        rows += [(event, count, "kernel") for event, count in read_state().events.items()]
        return pd.DataFrame(rows, columns=["counter", "value", "source"])

    def take(self, pid: int) -> None:
        """Bring a process with all its threads, and what it forks, under the scheduler; `close` gives it back."""
        self._borrowed.update(set_policy(pid, SCHED_EXT))

    def close(self) -> None:
        """Give the tasks back and switch the scheduler off; returns when the kernel has done so. Safe to call twice.

        Raises
        ------
        RunFailed
            The kernel has not switched it off within ten seconds.
        """
        borrowed, self._borrowed = self._borrowed, {}
        for thread, policy in borrowed.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.sched_getscheduler(thread) == SCHED_EXT:
                    os.sched_setscheduler(thread, policy, os.sched_param(0))
        if not self._link.attached:
            return
        self._link.close()
        end = time.monotonic() + _END
        while (state := read_state()).enabled and state.loads == self._load:
            if time.monotonic() > end:
                raise RunFailed(
                    f"the scheduler {self.name!r} is still {state.state}",
                    "dmesg says what it waits for; SysRq-S switches every sched_ext scheduler off",
                )
            time.sleep(0.01)
        self.ended = self.exit
        self.loaded.close()
