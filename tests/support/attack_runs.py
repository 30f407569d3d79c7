"""An accepted program in the interpreter and as compiled code: the same packets, map contents, random numbers."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jit_runs import ENTRY, HELPER

from workbench.native.library import load as load_native
from workbench.objects.linked import LinkedMap, LinkedProgram
from workbench.runtime.interpreter import Interpreter, ProgramFault
from workbench.runtime.interpreter.helpers import REFERENCE_HELPERS
from workbench.runtime.interpreter.maps import ReferenceMap
from workbench.runtime.interpreter.memory import Allocation
from workbench.runtime.jit.code import load
from workbench.runtime.jit.compile import compile_unit, prepare
from workbench.runtime.jit.layout import HELPERS, RUN
from workbench.runtime.jit.llvm import host
from workbench.runtime.jit.program import Program
from workbench.runtime.jit.unit import Options
from workbench.runtime.lower import lower, native_skb, native_xdp
from workbench.runtime.maps import Space, current_run
from workbench.runtime.verifier import Verdict

_TIME, _RANDOM = 5, 7
_EDGES = (
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    256,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 63,
    -1,
)
_STEPS, _BUDGET = 20_000, 5_000


@dataclass(frozen=True)
class Left:
    """What a run left; `stopped`: the run-time budget ended it."""

    r0: int
    packet: bytes
    maps: tuple[dict[bytes, bytes], ...]
    stopped: bool = False


def numbers(seed: int) -> Iterator[int]:
    """What clocks and random numbers give: edges, and anything."""
    rng = random.Random(seed)
    while True:
        number = rng.choice(_EDGES) if rng.random() < 0.6 else rng.getrandbits(64)
        yield number & (1 << 64) - 1


def packet_of(seed: int) -> bytes:
    """0 to 100 bytes."""
    rng = random.Random(seed)
    return rng.randbytes(rng.choice((0, 1, 7, 8, 14, 16, 60, 100)))


def content(shape: LinkedMap, seed: int) -> dict[bytes, bytes]:
    """What a map holds when the program begins."""
    rng = random.Random(f"{seed} {shape.name}")
    if shape.read_only or shape.type not in (1, 2):
        return {}
    count = shape.max_entries if shape.type == 2 else 3
    return {
        index.to_bytes(shape.key_size, "little"): bytes(
            rng.choice((0, 1, 15, 63, 64, 127, 255)) for _ in range(shape.value_size)
        )
        for index in range(count)
    }


def _context(type: str, start: int, length: int) -> bytes:
    make = native_xdp if type == "xdp" else native_skb
    return make(start, start + length)


def interpret(
    program: LinkedProgram, verdict: Verdict, maps: tuple[LinkedMap, ...], seed: int
) -> Left:
    """One run by the reference; raises ProgramFault."""
    stream = numbers(seed)
    used = [ReferenceMap(shape) for shape in maps]
    for one, shape in zip(used, maps, strict=True):
        for key, value in content(shape, seed).items():
            one.update(key, value, 0)
    helpers = {
        **REFERENCE_HELPERS,
        _TIME: lambda *_: next(stream),
        _RANDOM: lambda *_: next(stream) & 0xFFFFFFFF,
    }
    data = packet_of(seed)
    packet = Allocation(len(data), data)
    native = _context(program.type, packet.address, len(data))
    context = Allocation(len(native), native)
    machine = Interpreter(lower(program, verdict), maps=used, helpers=helpers, steps=_STEPS)
    regions = [
        (context.address, context.length, "context", True),
        (packet.address, len(data), "packet", True),
    ]
    try:
        r0 = machine.run([context.address], regions, packet=(packet.address, len(data))).r0
    except ProgramFault as fault:
        if verdict.unbounded and fault.reason.startswith("is not done"):
            return Left(0, b"", (), stopped=True)
        raise
    return Left(r0, packet.content, tuple(one.content for one in used if one.type in (1, 2)))


class Compiled:
    """A program in one tier, with maps of its own."""

    def __init__(
        self,
        program: LinkedProgram,
        verdict: Verdict,
        maps: tuple[LinkedMap, ...],
        tier: str,
        space: Space,
    ) -> None:
        self.shapes, self.type = maps, program.type
        self.maps = [space.create(shape) for shape in maps]
        self.space = space
        lowered = lower(program, verdict)
        self._program = Program(lowered, maps, self.maps, verdict, cached=False, budget=_BUDGET)
        options = Options(tier == "optimised", False, False, host(), bitcode=False)
        self._code = load(compile_unit(prepare(lowered.code, maps, options, verdict)))

    def run(self, seed: int) -> Left:
        """One run."""
        native = load_native()
        for one, shape in zip(self.maps, self.shapes, strict=True):
            if shape.type == 1:
                one.delete_many(one.table()[0])
            for key, value in content(shape, seed).items():
                one.update(key, value)
        stream = numbers(seed)
        clock = HELPER(lambda *_: next(stream))
        random_number = HELPER(lambda *_: next(stream) & 0xFFFFFFFF)
        data = packet_of(seed)
        packet = Allocation(len(data), data)
        given = _context(self.type, packet.address, len(data))
        context = Allocation(len(given), given)
        run = current_run(self.space)
        native.wb_execute_begin.restype = ctypes.c_bool
        native.wb_execute_begin.argtypes = [ctypes.c_void_p] * 3
        native.wb_execute_end.argtypes = [ctypes.c_void_p]
        native.wb_execute_end.restype = None
        assert native.wb_execute_begin(self._program.address, context.address, run)
        try:
            place = ctypes.c_uint64.from_address(run + RUN["helpers"])
            table = (ctypes.c_uint64 * HELPERS).from_buffer_copy(
                ctypes.string_at(place.value, 8 * HELPERS)
            )
            for number, function in ((_TIME, clock), (_RANDOM, random_number)):
                table[number] = ctypes.cast(function, ctypes.c_void_p).value or 0
            place.value = ctypes.addressof(table)
            r0 = ENTRY(self._code.address)(context.address, run)
            stopped = bool(ctypes.c_uint32.from_address(run + RUN["stopped"]).value)
        finally:
            native.wb_execute_end(run)
        return Left(r0, packet.content, tuple(self._contents()), stopped)

    def _contents(self) -> Iterator[dict[bytes, bytes]]:
        for one, shape in zip(self.maps, self.shapes, strict=True):
            if shape.type in (1, 2):
                keys, values = one.table()
                yield {
                    key.tobytes(): value.tobytes()[: shape.value_size]
                    for key, value in zip(keys, values, strict=True)
                }

    def close(self) -> None:
        """Let its code go."""
        self._program.close()
        self._code.close()


@contextmanager
def compiled(
    program: LinkedProgram, verdict: Verdict, maps: tuple[LinkedMap, ...], tier: str
) -> Iterator[Compiled]:
    """A compiled program in a namespace of its own."""
    with Space(None) as space:
        made = Compiled(program, verdict, maps, tier, space)
        try:
            yield made
        finally:
            made.close()
