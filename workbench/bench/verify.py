"""The verifier: every program of bpf/ accepted, 1,000-instruction programs of several shapes in time, memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

from workbench.bench.result import BenchResult, Check, Row
from workbench.errors import VerifierRejected
from workbench.objects.build import built_object
from workbench.objects.link import link
from workbench.objects.linked import LinkedMap, LinkedObject, LinkedProgram
from workbench.objects.model import builtin
from workbench.runtime.isa import assemble
from workbench.runtime.verifier import verify

__all__ = ("DESCRIPTION", "run")

DESCRIPTION = "verifier: all of bpf/ accepted, 1,000 instructions in at most 1 s, peak memory"
_MAPS: Final = (LinkedMap("values", 2, 4, 4096, 4), LinkedMap("ring", 27, 0, 0, 4096))
_ROUNDS: Final = 3
_KNOBS: Final[dict[str, dict[str, Any]]] = {
    "cpu": {"copy_bytes": 16384},
    "gpu": {"want_stacks": True, "copy_bytes": 4096},
    "uprobe": {"join": True, "argument_slots": 6, "string_slots": 2, "want_latency": True},
    "watch": {"want_values": True, "want_stacks": True},
}
_LOOKUP: Final = """
    *(u32 *)(r10 - 4) = 0
    r2 = r10
    r2 += -4
    r1 = map[values] ll
    call 1
    if r0 == 0 goto out
    r9 = r0
"""
_OUT: Final = "\nout: r0 = 0\nexit\n"


def _straight() -> str:
    """Arithmetic and stack, no jump."""
    body = "r6 = 1\n*(u64 *)(r10 - 8) = r6\n"
    for i in range(245):
        body += f"r6 *= {i + 3}\nr6 ^= {i}\n*(u64 *)(r10 - {8 * (i % 60) + 8}) = r6\nr7 = r6\n"
    return body + "r0 = r6\nexit\n"


def _branches() -> str:
    """Two hundred jumps that nothing decides: the paths meet again after each."""
    body = "call 7\nr6 = r0\nr7 = 0\n"
    for i in range(198):
        body += f"r1 = r6\nr1 >>= {i % 31}\nif r1 & 1 goto a{i}\nr7 += {i}\na{i}: r6 ^= r7\n"
    return body + "r0 = r7\nexit\n"


def _values() -> str:
    """Bounded indexes into a map value."""
    body = _LOOKUP + "call 7\nr6 = r0\n"
    for i in range(121):
        body += f"r1 = r6\nr1 &= {(1 << (i % 12 + 1)) - 1}\nr2 = r9\nr2 += r1\nr3 = *(u8 *)(r2 + 0)\nr6 += r3\n"
        body += f"if r6 > {i * 1000 + 5} goto b{i}\nr6 += 1\nb{i}:\n"
    return body + _OUT


def _loop() -> str:
    """A loop of 100 rounds within 1,000 instructions."""
    body = _LOOKUP + "r6 = 0\nr7 = 0\nagain:\n"
    for i in range(60):
        body += f"r1 = *(u8 *)(r9 + {i})\nr7 += r1\nr7 ^= {i}\n"
    tail = "".join(f"r8 = {i}\nr8 += r7\n" for i in range(395))
    return body + "r6 += 1\nif r6 < 100 goto again\n" + tail + _OUT


def _references() -> str:
    """Ring records reserved, filled and submitted."""
    body = ""
    for i in range(74):
        body += (
            f"r1 = map[ring] ll\nr2 = 40\nr3 = 0\ncall 131\nif r0 == 0 goto c{i}\n"
            f"*(u64 *)(r0 + 0) = {i}\n*(u64 *)(r0 + 8) = {i}\n*(u64 *)(r0 + 32) = 0\n"
            f"r1 = r0\nr2 = 0\ncall 132\nc{i}: r6 = {i}\n"
        )
    return body + "r0 = 0\nexit\n"


_SHAPES: Final[dict[str, Callable[[], str]]] = {
    "straight": _straight,
    "branches": _branches,
    "map values": _values,
    "loop": _loop,
    "ring records": _references,
}


def _program(text: str) -> tuple[LinkedProgram, LinkedObject]:
    program = LinkedProgram(
        "main", "socket", "socket_filter", assemble(text, maps=[one.name for one in _MAPS]), ()
    )
    return program, LinkedObject("bench", "GPL", {"main": program}, _MAPS, {})


def _seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_ROUNDS):
        begin = time.thread_time()  # a busy machine must not count
        work()
        best = min(best, time.thread_time() - begin)
    return best


def _objects() -> tuple[int, int, float, str]:
    """Programs, how many of them were accepted, seconds of the slowest, its name."""
    total = accepted = 0
    slowest, name = 0.0, ""
    names = sorted(path.name.split(".")[0] for path in built_object("cpu").parent.glob("*.bpf.o"))
    for one in dict.fromkeys(names):
        obj = builtin(one)
        if obj.struct_ops:  # schedulers call into the kernel
            continue
        for constants in ({}, _KNOBS[one]) if one in _KNOBS else ({},):
            linked = link(obj, btf=obj.btf, constants=constants)
            for program in linked.programs.values():
                total += 1
                begin = time.thread_time()
                try:
                    verify(program, linked)
                    accepted += 1
                except VerifierRejected:
                    name = f"{one}/{program.name} refused"
                    continue
                spent = time.thread_time() - begin
                if spent > slowest:
                    slowest, name = spent, f"{one}/{program.name}"
    return total, accepted, slowest, name


def run() -> BenchResult:
    """Measure; needs no privilege."""
    total, accepted, slowest, name = _objects()
    rows = [
        Row("programs of bpf/ accepted, knobs at rest and on", accepted, f"of {total}"),
        Row(f"slowest of them ({name})", slowest * 1e3, "ms"),
    ]
    worst = 0.0
    for shape, make in _SHAPES.items():
        program, obj = _program(make())
        slots = len(program.code) // 8
        steps = verify(program, obj).steps
        spent = _seconds(lambda program=program, obj=obj: verify(program, obj))  # type: ignore[misc]
        per = spent / slots * 1000
        worst = max(worst, per)
        rows.append(Row(f"{shape}: {slots} instructions, {steps:,} steps", spent * 1e3, "ms"))
    linked = link(builtin("uprobe"), btf=builtin("uprobe").btf, constants=_KNOBS["uprobe"])
    tracemalloc.start()
    for program in linked.programs.values():
        verify(program, linked)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rows.append(Row("peak memory, uprobe with every knob on", peak / 1e6, "MB"))
    checks = (
        Check.at_most("programs of bpf/ refused", total - accepted, 0),
        Check.at_most("seconds per 1,000 instructions", worst, 1.0),
        Check.at_most("seconds of the slowest program of bpf/", slowest, 2.0),
    )
    return BenchResult("verify", tuple(rows), checks)
