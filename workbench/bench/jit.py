"""Compiled programs against clang -O2 of the same C, and what compiling costs.

Each file of `programs/` is compiled twice: for BPF, then by our JIT; and by clang for this machine. Both run in this
process, called through the same C loop, in rounds that alternate. Natively, helpers and maps are calls to the same
functions through the same table that our code has.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.bench.jit_compile import compiling
from workbench.bench.result import BenchResult, Check, Row
from workbench.errors import CompileFailed, RunFailed, VerifierRejected
from workbench.native.library import load as core
from workbench.objects import model
from workbench.objects.compile import clang, compile_file
from workbench.objects.link import link
from workbench.objects.linked import LinkedObject
from workbench.runtime.jit.layout import MAP
from workbench.runtime.jit.program import Program
from workbench.runtime.maps import Map, Space, current_run
from workbench.runtime.verifier import verify

__all__ = ("DESCRIPTION", "run")

DESCRIPTION = "compiled programs against clang -O2 of the same C; time to compile and to reload"
PROGRAMS = Path(__file__).with_name("programs")
ROUNDS = 15
SAMPLE_NS = 1_500_000
STEPS = 100_000  # of the verifier, per program
OURS, PLAIN, QUICK = "workbench", "workbench without vector registers", "workbench, quick tier"
NATIVE, TUNED = "clang -O2", "clang -O2 -march=native"
SIDES = ((OURS, True, "optimised"), (PLAIN, False, "optimised"), (QUICK, False, "quick"))


def content() -> bytes:
    """What the programs read: words, then numbers, then packets; the same on every machine."""
    words = ["the", "edge", "of", "a", "wedge", "hedged", "its", "bets", "on", "knowledge"]
    text = ""
    state = 12345
    while len(text) < 1023:
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        text += words[(state >> 16) % len(words)] + " "
    numbers = bytearray()
    for _ in range(1024):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        numbers.append(state >> 16 & 255)
    packets = bytearray()
    for index in range(32):
        kind = index % 4
        header = bytes(12) + (b"\x86\xdd" if kind == 3 else b"\x08\x00")
        words4 = 6 if kind == 1 else 5
        protocol = {0: 6, 1: 17, 2: 1, 3: 6}[kind]
        ip = bytes([0x40 | words4, 0, 0, 50, 0, index, 0, 0, 64, protocol, 0, 0])
        ip += bytes([10, 0, 0, index, 10, 0, 1, index]) + bytes(4 * (words4 - 5))
        packets += (header + ip + bytes([index, 80, 1, 187])).ljust(64, b"\0")
    first = text[:1023].encode() + b"\0"
    return first + bytes(numbers) + bytes(packets)


@dataclass(slots=True)
class Side:
    """One way to run a program: its `struct wb_program` and the ns per run of each round."""

    program: int
    entry: int
    times: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Contest:
    """One program on all sides; one that the verifier gave up on counts every backward jump."""

    name: str
    sides: dict[str, Side]
    repeat: Callable[[int, int, int], int]
    verified: bool
    count: int = 1

    def round(self) -> None:
        """One sample of every side."""
        for side in self.sides.values():
            side.times.append(self.sample(side)[0])

    def sample(self, side: Side) -> tuple[float, int]:
        """(ns of this thread per run, result of the last run)."""
        begin = time.thread_time_ns()
        result = self.repeat(side.program, side.entry, self.count)
        return (time.thread_time_ns() - begin) / self.count, result

    def calibrate(self) -> None:
        """As many runs per sample as take long enough to be timed."""
        slowest = next(reversed(self.sides.values()))
        while True:
            took = self.sample(slowest)[0] * self.count
            if took > SAMPLE_NS / 4:
                break
            self.count *= 4
        self.count = max(1, round(self.count * SAMPLE_NS / took))

    def ratio(self, ours: str, other: str) -> float:
        """Median over the rounds of ours / other."""
        pairs = zip(self.sides[ours].times, self.sides[other].times, strict=True)
        return statistics.median(a / b for a, b in pairs)


class Native:
    """A program file compiled for this machine."""

    def __init__(self, source: Path, folder: Path, flags: tuple[str, ...]) -> None:
        target = folder / f"{source.name}{'-'.join(flags)}.so"
        command = [clang(), "-O2", *flags, "-shared", "-fPIC", "-fvisibility=hidden"]
        done = subprocess.run(
            [*command, "-o", str(target), str(source)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CompileFailed(f"clang refused {source}:\n{done.stderr.strip()}")
        self.library = ctypes.CDLL(str(target))
        self.library.bench_input.restype = ctypes.c_void_p

    def prepare(self, data: bytes, run: int, helpers: int, maps: dict[str, int]) -> None:
        """Input, maps and helpers."""
        ctypes.memmove(self.library.bench_input(), data, len(data))
        self.library.bench_set(ctypes.c_void_p(run), ctypes.c_void_p(helpers))
        for name, handle in maps.items():
            if hasattr(self.library, f"bench_map_{name}"):
                getattr(self.library, f"bench_map_{name}")(ctypes.c_void_p(handle))

    def address(self, name: str) -> int:
        """Of a program."""
        return ctypes.cast(getattr(self.library, name), ctypes.c_void_p).value or 0


class Repeat:
    """Runs a program many times: within one run, or, where it uses maps, as that many runs."""

    def __init__(self, library: ctypes.CDLL, run: int, *, separate: bool) -> None:
        self._core, self._run, self._separate = core(), run, separate
        self._bench = library.bench_repeat
        self._bench.restype = ctypes.c_uint64
        self._bench.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)
        self._execute = self._core.wb_execute_repeat
        pointer = ctypes.c_void_p
        self._execute.argtypes = (pointer, pointer, pointer, ctypes.c_uint64, pointer)
        self._execute.restype = ctypes.c_uint64
        self._core.wb_execute_begin.argtypes = (pointer, pointer, pointer)
        self._core.wb_execute_begin.restype = ctypes.c_bool
        self._core.wb_execute_end.argtypes = (pointer,)

    def __call__(self, program: int, entry: int, count: int) -> int:
        if self._separate:
            result = ctypes.c_uint64()
            self._execute(program, None, self._run, count, ctypes.byref(result))
            return result.value
        assert self._core.wb_execute_begin(program, None, self._run)
        try:
            return int(self._bench(entry, None, self._run, count))
        finally:
            self._core.wb_execute_end(self._run)


def _maps(space: Space, obj: LinkedObject, data: bytes) -> list[Map]:
    made = []
    for shape in obj.maps:
        one = space.create(shape)
        made.append(one)
        variable = obj.variables.get("input")
        if variable is not None and obj.maps[variable.map] is shape:
            values = ctypes.c_uint64.from_address(one.handle + MAP["values"]).value
            ctypes.memmove(values + variable.offset, data, len(data))
        if shape.name == "flows":
            for key in range(0, 256, 2):
                one[key.to_bytes(8, "little")] = bytes(8)
    return made


def contests(source: Path, folder: Path, space: Space, kept: list[Any]) -> list[Contest]:
    """Every program of one file, ready to run on all sides; `kept` holds what must live on."""
    data = content()
    obj = link(model.open(compile_file(source)))
    maps = _maps(space, obj, data)
    handles = {shape.name: one.handle for shape, one in zip(obj.maps, maps, strict=True)}
    run = current_run(space)
    helpers = ctypes.addressof(ctypes.c_char.in_dll(core(), "wb_helpers"))
    natives = {flags: Native(source, folder, flags) for flags in ((), ("-march=native",))}
    for native in natives.values():
        native.prepare(data, run, helpers, handles)
    separate = any(not shape.name.startswith(".") for shape in obj.maps)
    repeat = Repeat(natives[()].library, run, separate=separate)
    found = []
    for name, program in obj.programs.items():
        verdict, verified = None, True
        try:
            verdict = verify(program, obj, budget=STEPS)
        except VerifierRejected:
            verified = False
        sides = {}
        for label, vectors, tier in SIDES:
            one = Program(program, obj.maps, maps, verdict, vectors=vectors, cached=False)
            kept.append(one.start(tier))
            sides[label] = Side(one.address, one.entry)
        for (flags, native), label in zip(natives.items(), (NATIVE, TUNED), strict=True):
            memory = ctypes.create_string_buffer(ctypes.string_at(one.address, 32), 32)
            ctypes.c_uint64.from_buffer(memory).value = native.address(name)
            kept.append((memory, native, flags))
            sides[label] = Side(ctypes.addressof(memory), native.address(name))
        contest = Contest(name, sides, repeat, verified)
        results = {label: contest.sample(side)[1] for label, side in sides.items()}
        if len(set(results.values())) != 1:
            raise RunFailed(
                f"{source.name} {name}: results differ: {results}", "report this defect"
            )
        found.append(contest)
    return found


def geometric_mean(values: list[float]) -> float:
    """Of positive numbers."""
    return math.exp(statistics.fmean(map(math.log, values)))


def run() -> BenchResult:
    """Measure; needs clang and llvmlite, no privilege."""
    kept: list[Any] = []
    with tempfile.TemporaryDirectory() as name, Space(None) as space:
        folder = Path(name)
        field_ = [
            one
            for source in sorted(PROGRAMS.glob("*.bpf.c"))
            for one in contests(source, folder, space, kept)
        ]
        for one in field_:
            one.calibrate()
        for _ in range(ROUNDS):
            for one in field_:
                one.round()
        rows = []
        for one in field_:
            median = {label: statistics.median(side.times) for label, side in one.sides.items()}
            rows.append(Row(one.name, median[OURS], "ns", NATIVE, one.ratio(OURS, NATIVE)))
        ratios = {
            label: geometric_mean([one.ratio(label, NATIVE) for one in field_])
            for label in (OURS, PLAIN, QUICK, TUNED)
        }
        rows += [
            Row(f"geometric mean, {label}", value, f"x {NATIVE}") for label, value in ratios.items()
        ]
        unverified = [one.name for one in field_ if not one.verified]
        rows.append(
            Row(
                "programs with every jump counted, for the verifier's walk was cut short",
                len(unverified),
                f"of {len(field_)}" + (f": {', '.join(unverified)}" if unverified else ""),
            )
        )
        for one in kept:
            if isinstance(one, Program):
                one.close()
    compile_rows, compile_checks = compiling(PROGRAMS)
    checks = [Check.at_most("execution / clang -O2, geometric mean", ratios[OURS], 1.05)]
    return BenchResult("jit", (*rows, *compile_rows), (*checks, *compile_checks))
