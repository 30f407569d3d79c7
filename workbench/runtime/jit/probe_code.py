"""Code that probes call, in two tiers: quick code at once, optimised code when it is ready."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from workbench.errors import RunFailed, WorkbenchError
from workbench.objects.linked import LinkedMap, LinkedProgram
from workbench.runtime.jit import background
from workbench.runtime.jit.blob import Blob
from workbench.runtime.jit.compile import TIERS, compile_program, find
from workbench.runtime.jit.frames import stack_bytes

if TYPE_CHECKING:
    from workbench.runtime.verifier.verdict import Verdict

__all__ = ("STACK", "ProbeCode")

#: Bytes of stack that quick code may take in a target; it keeps every value there. A signal handler's stack has 8 KiB
#: (SIGSTKSZ), of which the registers that the kernel saves take up to 3.
STACK: Final = 3072
QUICK, OPTIMISED = TIERS

_lock = threading.Lock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


class ProbeCode:
    """One program, compiled for targets: without vector registers, position-independent.

    It is `optimised` from the start where the cache on disk has it so, or where quick code would take more than
    `STACK` bytes of a stranger's stack. Else it is `quick`; `improve` has it compiled again in the background.

    Parameters
    ----------
    program : LinkedProgram
        Lowered where its context has the kernel's shape.
    shapes : sequence of LinkedMap
    verdict : Verdict
    cached : bool
        Use the cache on disk.

    Attributes
    ----------
    places : dict of int to str
        Which tier runs where: process id -> tier.
    changed : callable or None
        Called when `places` has changed; from any thread.
    """

    vectors = False

    def __init__(
        self,
        program: LinkedProgram,
        shapes: Sequence[LinkedMap],
        verdict: Verdict | None,
        *,
        cached: bool = True,
    ) -> None:
        self.program, self.shapes, self.verdict, self.cached = program, shapes, verdict, cached
        self.places: dict[int, str] = {}
        self.changed: Callable[[], None] | None = None
        self._listeners: dict[int, Callable[[ProbeCode], None]] = {}
        self._condition = threading.Condition(_lock)
        self._submitted_by = self._late = 0
        self._done = self._closed = False
        self._error: Exception | None = None
        background.busy()
        self.blob = self._first()
        background.busy()
        if self.blob.tier == OPTIMISED:
            self._done = True

    def __repr__(self) -> str:
        return f"<ProbeCode {self.program.name} ({self.tier})>"

    def _first(self) -> Blob:
        if self.cached:
            ready = find(self.program, self.shapes, verdict=self.verdict, tier=OPTIMISED)
            if ready is not None:
                return ready
        quick = self._compile(QUICK)
        return quick if stack_bytes(quick) <= STACK else self._compile(OPTIMISED)

    def _compile(self, tier: str) -> Blob:
        return compile_program(
            self.program, self.shapes, verdict=self.verdict, tier=tier, cached=self.cached
        )

    @property
    def code(self) -> bytes:
        """The best there is."""
        return self.blob.code

    @property
    def entry(self) -> int:
        """Offset of the function in `code`."""
        return self.blob.entry

    @property
    def tier(self) -> str:
        """`quick` or `optimised`: what is placed into targets from now on."""
        return self.blob.tier

    def improve(self, after: contextlib.AbstractContextManager[object] | None = None) -> None:
        """Compile it optimised in the background, unless that is done or under way.

        Parameters
        ----------
        after : context manager, optional
            Entered and left first: a lock, so that the compiler waits for whoever holds it.
        """
        with _lock:
            if self._done or self._closed or self._submitted_by == os.getpid():
                return
            self._submitted_by = os.getpid()
        background.submit(lambda: self._improve(after))

    def _improve(self, after: contextlib.AbstractContextManager[object] | None) -> None:
        with after or contextlib.nullcontext():
            background.busy()
        if not background.calm() or self._closed:
            return
        try:
            blob = self._compile(OPTIMISED)
        except Exception as error:
            with _lock:
                self._error, self._done = error, True
                self._condition.notify_all()
            if isinstance(error, WorkbenchError):
                return
            raise
        with _lock:
            if self._closed:
                return
            self.blob = blob
            listeners = list(self._listeners.values())
        try:
            for tell in listeners:
                tell(self)
        finally:
            with _lock:
                self._done = True
                self._condition.notify_all()

    def listen(
        self, owner: object, tell: Callable[[ProbeCode], None], has: object = None
    ) -> None:
        """Call `tell` with this object, in the compiler's thread, when `blob` got better, or is better than `has`."""
        with _lock:
            self._listeners[id(owner)] = tell
            late = has is not None and has is not self.blob
            self._late += late
        if late:
            background.submit(lambda: self._tell_late(tell))

    def _tell_late(self, tell: Callable[[ProbeCode], None]) -> None:
        try:
            tell(self)
        finally:
            with _lock:
                self._late -= 1
                self._condition.notify_all()

    def forget(self, owner: object) -> None:
        """Do not call it any more; harmless twice."""
        with _lock:
            self._listeners.pop(id(owner), None)

    def runs(self, pid: int, tier: str) -> None:
        """Note which tier a process runs; an empty one: it does not run the program any more."""
        with _lock:
            before = self.places.get(pid, "")
            if tier:
                self.places[pid] = tier
            else:
                self.places.pop(pid, None)
        if tier != before and self.changed is not None:
            self.changed()

    def wait(self, timeout: float | None = None) -> None:
        """Until optimised code is ready and runs where quick code did.

        Raises
        ------
        RunFailed
            It is not within `timeout` seconds, or the program was unloaded.
        WorkbenchError
            What the compiler raised; quick code stays in use.
        """
        self.improve()
        with self._condition:
            done = self._condition.wait_for(
                lambda: (self._done and not self._late) or self._closed, timeout
            )
        if self._error is not None:
            raise self._error
        if not done or not self._done:
            raise RunFailed(
                f"{self.program.name} has {self.tier} code, optimised code is not there yet",
                "wait longer; is it still loaded?",
            )

    def close(self) -> None:
        """The program is unloaded: nothing is compiled for it any more."""
        with _lock:
            self._closed = True
            self._listeners.clear()
            self._condition.notify_all()
