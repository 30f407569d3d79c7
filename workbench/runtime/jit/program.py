"""A program that runs at once and gets better: quick code first, optimised code swapped in when it is ready."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from workbench.errors import BadSpec, RunFailed, WorkbenchError
from workbench.objects.linked import LinkedMap, LinkedProgram
from workbench.runtime.jit import background
from workbench.runtime.jit.blob import Blob
from workbench.runtime.jit.code import Code, load
from workbench.runtime.jit.compile import TIERS, compile_program, find
from workbench.runtime.jit.layout import MAP, PROGRAM, PROGRAM_BYTES
from workbench.runtime.jit.lookup import INLINED, stride

if TYPE_CHECKING:
    from workbench.runtime.verifier.verdict import Verdict

__all__ = ("BUDGET", "CALLBACK", "HasHandle", "Program")

CALLBACK = "callback_"  # and the function's first slot: the same name in every tier
BUDGET = 1 << 26  # back-edges and rounds that the verifier could not bound, in one run


class HasHandle(Protocol):
    """A map of this process."""

    @property
    def handle(self) -> int:
        """Address of its struct wb_map."""


class Program:
    """A compiled program in this process.

    Parameters
    ----------
    program : LinkedProgram
        Lowered where its context has the kernel's shape.
    shapes : sequence of LinkedMap
        The object's maps, by the index in the code.
    maps : sequence
        The same maps in this process: anything with a `handle` (`workbench.runtime.maps.Map`).
    verdict : Verdict, optional
        Without it, every backward jump counts down the budget.
    vectors : bool
        Use vector registers: for runs from here. Code that probes call does without.
    budget : int
        Back-edges and rounds that the verifier could not bound, in one run, before it is stopped.
    number : int
        `wb_program.id`.

    Attributes
    ----------
    address : int
        Of the `struct wb_program`; its `entry` is swapped while it is in use, so callers read it for each run.
    blob : Blob
        The code in use.
    changed : callable or None
        Called when other code is in use; from any thread.
    """

    def __init__(
        self,
        program: LinkedProgram,
        shapes: Sequence[LinkedMap] = (),
        maps: Sequence[HasHandle] = (),
        verdict: Verdict | None = None,
        *,
        vectors: bool = True,
        budget: int = BUDGET,
        number: int = 0,
        cached: bool = True,
    ) -> None:
        if len(shapes) != len(maps):
            raise BadSpec(
                f"{program.name}: {len(shapes)} map shapes, but {len(maps)} maps",
                "pass the maps of the whole object, by the index in the code",
            )
        self.program, self.shapes, self.verdict = program, tuple(shapes), verdict
        self.vectors, self.cached = vectors, cached
        for shape, one in zip(shapes, maps, strict=True):
            _check(shape, one.handle)
        self._maps = maps  # they live as long as the program
        self._handles = (ctypes.c_uint64 * max(len(maps), 1))(*(one.handle for one in maps))
        self._memory = ctypes.create_string_buffer(PROGRAM_BYTES + 8)
        self.address = ctypes.addressof(self._memory) + 7 & ~7
        self._field("maps").value = ctypes.addressof(self._handles)
        self._field("budget").value = budget
        ctypes.c_uint32.from_address(self.address + PROGRAM["id"]).value = number
        self._codes: list[Code] = []
        self._changed = threading.Condition()
        self.changed: Callable[[], None] | None = None
        self._error: WorkbenchError | None = None
        self._closed = False

    def _field(self, name: str) -> ctypes.c_uint64:
        return ctypes.c_uint64.from_address(self.address + PROGRAM[name])

    @property
    def blob(self) -> Blob:
        """The code in use."""
        return self._codes[-1].blob

    @property
    def tier(self) -> str:
        """`quick` or `optimised`; empty before `start`."""
        return self._codes[-1].blob.tier if self._codes else ""

    @property
    def entry(self) -> int:
        """Address of the code in use."""
        return self._codes[-1].address

    def callbacks(self) -> dict[int, str]:
        """Its functions that helpers and timers may call, by address, in every piece of code that is mapped."""
        return {
            code.base + one.offset: one.name
            for code in list(self._codes)
            for one in code.blob.symbols
            if one.name.startswith(CALLBACK)
        }

    def start(self, tier: str = "") -> Program:
        """Make it runnable; by default with quick code, while optimised code is made in the background.

        Parameters
        ----------
        tier : str
            Only this tier, made before the call returns.
        """
        if tier:
            self._use(load(self._compile(tier)))
            return self
        ready = self._find(TIERS[1])
        if ready is not None:
            self._use(load(ready))
            return self
        self._use(load(self._compile(TIERS[0])))
        background.submit(self._improve)
        return self

    def wait(self, tier: str = "optimised", timeout: float | None = None) -> Program:
        """Until code of that tier is in use.

        Raises
        ------
        RunFailed
            It is not ready within `timeout` seconds, or was never started.
        WorkbenchError
            What the compilation in the background raised.
        """
        if not self._codes:
            raise RunFailed(f"{self.program.name} was not started", "call start() first")
        with self._changed:
            done = self._changed.wait_for(
                lambda: self.tier == tier or self._error is not None or self._closed, timeout
            )
        if self._error is not None and self.tier != tier:
            raise self._error
        if not done or self.tier != tier:
            raise RunFailed(
                f"{self.program.name} has {self.tier} code, {tier} code is not there yet",
                "wait longer, or start(tier) to compile in the foreground",
            )
        return self

    def close(self) -> None:
        """Unmap all its code. The caller answers for it that no thread runs it any more."""
        with self._changed:
            self._closed = True
            self._field("entry").value = 0
            for code in self._codes:
                code.close()
            self._changed.notify_all()

    def _compile(self, tier: str) -> Blob:
        return compile_program(
            self.program,
            self.shapes,
            verdict=self.verdict,
            tier=tier,
            vectors=self.vectors,
            cached=self.cached,
        )

    def _find(self, tier: str) -> Blob | None:
        if not self.cached:
            return None
        return find(
            self.program, self.shapes, verdict=self.verdict, tier=tier, vectors=self.vectors
        )

    def _use(self, code: Code) -> None:
        """Threads that are in the old code stay there, so it stays mapped until `close`."""
        with self._changed:
            if self._closed:
                code.close()
                return
            self._codes.append(code)
            self._field("entry").value = code.address
            self._changed.notify_all()
        if self.changed is not None:
            self.changed()

    def _improve(self) -> None:
        if self._closed:
            return
        try:
            self._use(load(self._compile(TIERS[1])))
        except WorkbenchError as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()


def _check(shape: LinkedMap, handle: int) -> None:
    """The code has array shapes built in: the map must have the same."""
    if shape.type not in INLINED:
        return

    def read(name: str) -> int:
        return ctypes.c_uint32.from_address(handle + MAP[name]).value

    found = (read("type"), read("key_size"), read("value_size"), read("max_entries"))
    wanted = (shape.type, shape.key_size, shape.value_size, shape.max_entries)
    if found != wanted or read("stride") != stride(shape.value_size):
        raise BadSpec(
            f"map {shape.name!r} has (type, key, value, entries) {found}, the program needs {wanted}",
            "open the map of this object, or change the object's declaration",
        )
