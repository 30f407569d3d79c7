"""Hardware watchpoints: who reads or writes this address, from which instruction, with which value.

A debug register per address makes every access trap, on every thread of the target and those that it creates later.
A trap costs microseconds to tens of microseconds, so a watch is meant for few addresses and has a budget.

What the columns `before` and `after` mean (`values=yes`): `after` was read in the trap, right after the access, so
another thread may have written in between. `before` is the `after` of the previous recorded hit of this process at
this address (for the first: what was there when the watch was armed; for the first of a forked child: what its
parent saw last). It is not the value before the access where something changed the memory without a recorded hit: the
kernel with `kernel=no`, another process through shared memory, a thread between an access and its reading, and
everything while the watch was disarmed by its budget, its rate or its turns. On aarch64 the trap comes before the
access: there `before` is exact and `after` is 0.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.base import Counters
from workbench.collectors.stacks import COPY_BYTES
from workbench.collectors.watch.addresses import Bytes, locate
from workbench.collectors.watch.armory import Armory
from workbench.collectors.watch.backend import LATE, Backend, Hits
from workbench.collectors.watch.code import CodeReader
from workbench.collectors.watch.decode import Decoded, Decoder, architecture
from workbench.collectors.watch.kernel import KernelBackend
from workbench.collectors.watch.limits import Limits, Turns
from workbench.collectors.watch.operands import ACCESSES, UNKNOWN, WRITE
from workbench.collectors.watch.signals import SignalBackend
from workbench.collectors.watch.slots import SLOTS, Aim, Breakpoints, Place, free_slots, pieces
from workbench.errors import BadSpec, MissingCapability, NotPermitted, WorkbenchError

if TYPE_CHECKING:
    from workbench.collectors.base import Sink, Target
    from workbench.collectors.spec import Spec

__all__ = ("DEFAULT_HITS", "DEFAULT_TURN", "WatchCollector")

DEFAULT_HITS = 100_000
"""At 20 to 40 microseconds a trap this costs the target two to four seconds in all."""
DEFAULT_TURN = 20
_SMALL = 256  # a batch below this was all there was
_MODES = ("auto", "bpf", "sigtrap")
_log = logging.getLogger(__name__)


class WatchCollector:
    """Records accesses to watched bytes.

    Parameters
    ----------
    what : str
        See `addresses.locate`.
    access : {"w", "rw"}
        Trap writes, or reads and writes. x86-64 has no watch for reads alone.
    reads_only : bool
        `rwatch`: trap both and leave out the rows whose instruction only writes (those that cannot be decoded stay,
        with access "unknown").
    size : int
        Bytes, 0 for the size of the object.
    values : bool
        Record the value before and after.
    stacks : {"no", "fp", "dwarf"}
    hits : int
        Budget: hits recorded before the watch disarms for good; 0 for no limit.
    rate : int
        Hits recorded per second before it disarms for the rest of a tenth of a second; 0 for no limit.
    turn : int
        A range with more places than slots: milliseconds after which the slots watch other places of it.
    slots : int
        Slots that a range may take, 1 to 4.
    kernel : bool
        Accesses by the kernel on behalf of the target as well (only with BPF).
    mode : {"auto", "bpf", "sigtrap"}
    copy : int
        Bytes of user stack copied for ``stacks=dwarf``.
    seed : int
        Of the random order of turns.
    """

    SUMMARY = "hardware watchpoints: who writes or reads an address (frames watches, watch_windows)"
    USAGE = (
        "watch:SYMBOL|LIB:SYMBOL|SYMBOL+8|ARRAY[3]|0xADDR|0xFROM..0xTO[,access=w|rw][,size=1|2|4|8]"
        "[,values=yes][,stacks=no|yes|fp|dwarf][,hits=N][,rate=N][,rotate=MS][,slots=1-4][,kernel=yes|no]"
        "[,mode=auto|bpf|sigtrap]; rwatch:... for reads only"
    )

    frames = ("watches", "watch_windows")

    def __init__(
        self,
        what: str,
        *,
        access: str = "w",
        reads_only: bool = False,
        size: int = 0,
        values: bool = False,
        stacks: str = "no",
        hits: int = DEFAULT_HITS,
        rate: int = 0,
        turn: int = DEFAULT_TURN,
        slots: int = SLOTS,
        kernel: bool = True,
        mode: str = "auto",
        copy: int = COPY_BYTES,
        seed: int = 0,
        label: str = "",
    ) -> None:
        if size not in (0, 1, 2, 4, 8):
            raise BadSpec(
                f"watch:{what}: size is {size}, and a debug register watches 1, 2, 4 or 8 bytes",
                "leave out size= for the size of the object, or name a range 0xFROM..0xTO",
            )
        self.name = "rwatch" if reads_only else "watch"
        self.what, self.access = what, "rw" if reads_only else access
        self.reads_only, self.size, self.values, self.stacks = reads_only, size, values, stacks
        self.limits = Limits(hits, rate)
        self.turn, self.slots, self.kernel, self.mode = turn, slots, kernel, mode
        self.copy, self.seed = copy, seed
        self.label = label or f"{self.name}:{what}"
        self.counters = Counters()
        self.place: Bytes | None = None
        self._why = self._how = ""
        self._spent = False
        self._backend: Backend | None = None
        self._armory: Armory | None = None
        self._left_out = self._inexact = 0

    @classmethod
    def from_spec(cls, spec: Spec) -> WatchCollector:
        """The watch that a specification asks for."""
        reads_only = spec.name == "rwatch"
        if not spec.argument:
            raise BadSpec(
                f"{spec}: a watch needs something to look at", f"for example {spec.name}:counter"
            )
        stacks = spec.choice("stacks", "no", ("no", "yes", "fp", "dwarf", "none"))
        made = cls(
            spec.argument,
            access="rw" if reads_only else spec.choice("access", "w", ("w", "rw")),
            reads_only=reads_only,
            size=spec.integer("size", 0, 0, 8),
            values=spec.flag("values"),
            stacks={"yes": "dwarf", "none": "no"}.get(stacks, stacks),
            hits=spec.integer("hits", DEFAULT_HITS, 0),
            rate=spec.integer("rate", 0, 0, 10_000_000),
            turn=_milliseconds(spec),
            slots=spec.integer("slots", SLOTS, 1, SLOTS),
            kernel=spec.flag("kernel", True),
            mode=spec.choice("mode", "auto", _MODES),
            copy=spec.integer("copy", COPY_BYTES, 512, 56 * 1024),
            seed=spec.integer("seed", 0, 0),
            label=f"{spec.name}:{spec.argument}",
        )
        spec.done()
        return made

    # -- life -------------------------------------------------------------------------------------------------

    def attach(self, target: Target, sink: Sink) -> None:
        """Arm the watch; see `Collector.attach`.

        Raises
        ------
        BadSpec, UnknownSymbol
            The target has no such bytes.
        OutOfSlots
            All four watchpoints of a thread are taken.
        NotPermitted, MissingCapability
            Neither way of receiving hits works here.
        """
        self._sink, self._target = sink, target
        try:
            self._arm(target, sink)
        except BaseException:
            backend, self._backend = self._backend, None
            if backend is not None:
                backend.close()
            raise

    def _arm(self, target: Target, sink: Sink) -> None:
        architecture()
        self.place = place = locate(target, self.what, self.size)
        everything = pieces(place.address, place.length)
        own = target.pid == os.getpid()
        backend = self._backend or self._make_backend(target, own=own)
        self._backend, self._how = backend, backend.mode
        aim = Aim(
            self.label,
            writes_only=self.access == "w",
            kernel=self.kernel and backend.mode == "bpf",
            follow=target.follow,
            signal=backend.mode == "sigtrap",
            token=backend.token,
        )
        turns, first = self._plan(target, everything)
        self._decoder = Decoder(CodeReader(target.pid), write_only=self.access == "w")
        backend.begin(target, sink)
        self._armory = Armory(
            self.label,
            backend,
            Breakpoints(aim, backend.connect),
            self.limits,
            turns,
            self.turn / 1000,
            values=self.values,
        )
        self._armory.begin(target.pids or {target.pid or 0}, first, target.window)

    def prepare_environment(self, variables: dict[str, str]) -> None:
        """Change the environment of a command before it is started: it may have to load the sigtrap agent."""
        backend = self._make_backend(None, own=False)
        if isinstance(backend, SignalBackend):
            backend.environment(variables)
            self._backend = backend
        else:
            backend.close()

    def _make_backend(self, target: Target | None, *, own: bool) -> Backend:
        """How hits are received; without `target`, those of a command that is yet to be started."""
        if target is not None and target.backend == "userspace":
            if self.mode == "bpf":
                raise BadSpec(
                    f"{self.label}: mode=bpf records with the kernel",
                    "leave mode=bpf away, or record with --backend kernel",
                )
            self._why = "user space was chosen"
        elif self.mode != "sigtrap":
            try:
                backend = KernelBackend(stacks=self.stacks, copy=self.copy, values=self.values)
                self._why = "BPF works here" if self.mode == "auto" else "asked for"
                return backend
            except (NotPermitted, MissingCapability) as error:
                if self.mode == "bpf" or (target is not None and target.machine):
                    error.hint += "; without BPF only processes of your own can be watched"
                    raise
                self._why = f"BPF does not work here: {error.message.splitlines()[0]}"
                _log.warning("%s: hits are taken by signals (sigtrap): %s", self.label, self._why)
        else:
            self._why = "asked for"
        running = target.pids if target is not None and not own else ()
        return SignalBackend(stacks=self.stacks, values=self.values, own=own, running=running)

    def _plan(self, target: Target, everything: list[Place]) -> tuple[Turns | None, list[Place]]:
        """Which places take turns (None: each has its slot), and which are watched first."""
        if len(everything) <= self.slots:
            return None, everything
        slots = self.slots
        for pid in target.pids:
            slots = max(min(slots, free_slots(pid)), 1)
        turns = Turns(everything, self.seed)
        return turns, turns.take(slots)

    def attach_process(self, pid: int) -> None:
        """Inherited events follow children by themselves."""

    def notes(self) -> dict[str, Any]:
        """How the watch was set, for the recording's manifest."""
        if self.place is None or not self._how:
            return {}
        return {
            self.label: {
                "mode": self._how,
                "why": self._why,
                "address": hex(self.place.address),
                "bytes": self.place.length,
                "access": self.access,
                "hits": self.limits.hits,
                "rate": self.limits.rate,
                # Accesses after that did not trap, so nobody knows how many there were.
                "disarmed_by_budget": self._spent,
                "instruction_not_proven": self._inexact,
                "writes_left_out": self._left_out,
                "stacks": "fp"
                if self._how == "sigtrap" and self.stacks == "dwarf"
                else self.stacks,
            }
        }

    def wake_fds(self) -> tuple[int, ...]:
        """The ring, readable when the budget or a window is spent or much waits, and the timer of the turns."""
        if self._backend is None or self._armory is None:
            return ()
        return (*self._backend.wake_fds(), *self._armory.wake_fds())

    def drain(self) -> int:
        """Move hits into the sink, then disarm, arm or rotate as due."""
        backend, armory = self._backend, self._armory
        if backend is None or armory is None:
            return 0
        rows = 0
        while True:
            # Between batches as well: a hot target fills the ring as fast as it is read.
            armory.tend(self._target.pids)
            hits = backend.drain()
            if hits is None:
                break
            rows += self._append(hits)
            if len(hits) < _SMALL and not armory.closed:
                break
        armory.flush(self._sink)
        self.counters.events += rows
        if backend.spent and not self._spent:
            self._spent = True
            _log.info(
                "%s: its budget of %d hits is spent, it is disarmed", self.label, self.limits.hits
            )
        self.counters.lost = sum(backend.losses().values())
        return rows

    def _append(self, hits: Hits) -> int:
        columns = hits.columns
        ips = hits.registers[:, architecture().IP]
        decoded = self._decoder.decode(
            columns["pid"], ips, columns["address"], columns["size"], hits.registers, hits.code
        )
        late = columns["flags"] & LATE != 0
        if late.any():
            decoded.ip[late], decoded.exact[late], decoded.access[late] = ips[late], False, UNKNOWN
        stacks = backend_stacks(self._backend, hits, decoded)
        access = decoded.access.copy()
        if self.access == "w":
            access[access == UNKNOWN] = WRITE  # nothing else traps
        keep = access != WRITE if self.reads_only else np.ones(len(hits), bool)
        self._left_out += int((~keep).sum())
        self._inexact += int((~decoded.exact & keep).sum())
        names = np.array(ACCESSES, object)
        if keep.any():
            self._sink.append(
                "watches",
                {
                    **{n: columns[n][keep] for n in ("time", "pid", "tid", "cpu", "comm")},
                    "watch": [self.label] * int(keep.sum()),
                    "address": columns["address"][keep],
                    "ip": decoded.ip[keep],
                    "access": names[access[keep]],
                    "exact": decoded.exact[keep],
                    "size": columns["size"][keep].astype(np.int8),
                    "before": columns["before"][keep],
                    "after": columns["after"][keep],
                    "stack": stacks[keep],
                },
            )
        return int(keep.sum())

    def detach(self) -> None:
        """Free the watchpoint slots."""
        if self._armory is not None:
            self._armory.close()

    def finish(self) -> None:
        """Append the last windows, losses and the cost of the traps."""
        backend, armory = self._backend, self._armory
        if backend is None:
            return
        try:
            if armory is not None:
                armory.close()
                armory.flush(self._sink)
            if isinstance(backend, SignalBackend):
                while (hits := backend.drain(last=True)) is not None:
                    self.counters.events += self._append(hits)
            losses = backend.losses()
            taken = backend.taken()
            if isinstance(backend, SignalBackend) and armory is not None:
                # A signal that is pending already is not queued again: two watches of one access, blocked signals.
                losses["signals merged"] = max(armory.trapped - taken, 0)
            self.counters.lost = sum(losses.values())
            self._sink.append(
                "losses",
                {
                    "collector": [self.label] * len(losses),
                    "frame": ["watches"] * len(losses),
                    "cause": list(losses),
                    "lost": np.array(list(losses.values()), np.int64),
                },
            )
            self._append_overhead(backend.mode, taken)
        finally:
            self._backend = None
            backend.close()

    def _append_overhead(self, mode: str, taken: int) -> None:
        from workbench.collectors.watch.cost import hit_cost

        try:
            low, median, high = hit_cost(
                mode, stacks=self.stacks, copy=self.copy, values=self.values
            )
        except WorkbenchError as error:
            _log.info("%s: cost not calibrated: %s", self.label, error.message)
            low = median = high = float("nan")
        self._sink.append(
            "overhead",
            {
                "collector": [self.name],
                "probe": [self.label],
                "instruction_class": ["not applicable"],
                "hits": np.array([taken], np.int64),
                "cost": np.array([median]),
                "cost_low": np.array([low]),
                "cost_high": np.array([high]),
                "total": np.array([median * taken if taken else 0.0]),
            },
        )


def backend_stacks(backend: Backend | None, hits: Hits, decoded: Decoded) -> Any:
    """Stack ids of a batch, with the accessing instruction innermost."""
    assert backend is not None
    return backend.stack_ids(hits, decoded.ip)


def _milliseconds(spec: Spec) -> int:
    text = spec.text("rotate", str(DEFAULT_TURN)).removesuffix("ms")
    if not text.isdigit() or not 1 <= int(text) <= 60_000:
        raise BadSpec(
            f"{spec}: rotate is {text!r}",
            "milliseconds of a turn, 1 to 60000, for example rotate=20",
        )
    return int(text)
