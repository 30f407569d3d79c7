"""A program that runs at intervals of wall-clock time, in a thread of this process: nobody else is disturbed for it.

It runs whether a target sleeps, is stopped or has ended, and needs none. The kernel runs such a program on one CPU,
with the registers of whatever that was about; here the registers are zero.
"""

from __future__ import annotations

import ctypes
import struct
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from workbench.errors import BadSpec
from workbench.runtime.program_types import EVENT_REGISTERS

if TYPE_CHECKING:
    from workbench.runtime.maps import Space
    from workbench.runtime.program import Program

__all__ = ("Interval",)

_LINK = struct.Struct("<QQQIIQQ")  # struct wb_link
_COOKIE, _MISSED = 8, 40
_LEAST = 10_000


class Interval:
    """One program on a clock, until closed; as a context.

    Parameters
    ----------
    program : Program
        Of section perf_event. Its context is a struct bpf_perf_event_data: `sample_period` is `period`, the rest 0.
    space : Space
        Of its maps.
    period : int
        ns between two runs, 10,000 or more. The first is one period from now, and the grid is kept: a run that comes
        late moves no other, a period that passed while the program was not run is `missed`.
    cookie : int
        What bpf_get_attach_cookie gives.

    Raises
    ------
    BadSpec
        Too short a period.
    """

    def __init__(self, program: Program, space: Space, period: int, *, cookie: int = 0) -> None:
        if period < _LEAST:
            raise BadSpec(
                f"an interval of {period} ns",
                f"{_LEAST // 1000} us or more: interval:us:{_LEAST // 1000}",
            )
        from workbench.runtime.helpers.faults import protect

        self.program, self.period = program, period
        self.hits = 0
        """How often the program ran."""
        self._space = space
        self._spent = self._late = 0
        self._entry = program.code.address  # compiled now, not in the thread
        protect()
        packed = _LINK.pack(self._entry, cookie, 0, 0, 0, 0, 0)
        self._link = ctypes.create_string_buffer(packed, len(packed))
        context = bytes(EVENT_REGISTERS) + struct.pack("<QQ", period, 0)
        self._context = ctypes.create_string_buffer(context, len(context))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bpf interval", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "" if self.attached else " (detached)"
        return f"<Interval {self.program.name} every {self.period / 1e6:g} ms{state}>"

    def __enter__(self) -> Interval:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def missed(self) -> int:
        """Periods that passed without a run."""
        return self._late + int(ctypes.c_uint64.from_buffer(self._link, _MISSED).value)

    @property
    def cost(self) -> tuple[int, int]:
        """How often the program ran, and how many ns that took in all."""
        return self.hits, self._spent

    @property
    def attached(self) -> bool:
        """True until closed."""
        return not self._stop.is_set()

    def close(self) -> None:
        """The program does not run any more when this returns; harmless twice."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        from workbench.runtime.helpers.native import CRun, execute_repeat
        from workbench.runtime.maps import current_run

        run = current_run(self._space)
        CRun.from_address(run).link = ctypes.addressof(self._link)
        context = ctypes.addressof(self._context)
        due = time.monotonic_ns() + self.period
        while not self._stop.wait(max(0, due - time.monotonic_ns()) / 1e9):
            late = (time.monotonic_ns() - due) // self.period
            if late < 0:  # woken a little early
                continue
            before = self.missed
            self._spent += execute_repeat(self._entry, context, run, 1)[1]
            self.hits += self.missed == before
            self._late += late
            due += (late + 1) * self.period
