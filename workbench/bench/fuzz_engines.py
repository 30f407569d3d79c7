"""What runs a random program: interpreter, both JIT tiers, the kernel; each with fresh maps and its own packet."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workbench.bench.fuzz_builder import CONTEXT_BYTES, MAPS
from workbench.bench.fuzz_programs import FuzzProgram
from workbench.errors import MissingCapability
from workbench.kernel.raw_program import PROGRAM_TYPES, KernelMap, KernelProgram
from workbench.runtime.interpreter import Interpreter
from workbench.runtime.interpreter.helpers import REFERENCE_HELPERS
from workbench.runtime.interpreter.maps import ReferenceMap
from workbench.runtime.jit.program import Program
from workbench.runtime.lower import lower, native_skb, native_xdp
from workbench.runtime.maps import Space, current_run
from workbench.runtime.verifier import Verdict

__all__ = ("CompiledEngine", "Difference", "InterpreterEngine", "KernelEngine", "Result", "compare")


_MAP_32BIT, _FAILED = 0x40, ctypes.c_void_p(-1).value
_STEPS = 200_000
_LOOP = 181


@dataclass(frozen=True, slots=True)
class Result:
    """What a run left: r0 (the kernel tells its low 32 bits only), the packet, the maps."""

    r0: int
    packet: bytes
    maps: tuple[dict[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Two engines left something else."""

    engine: str
    peer: str
    what: str


class Packet:
    """A packet and its struct xdp_md below 4 GiB, so that the 32-bit fields of the context hold real addresses."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self._unmap: Callable[..., int] = libc.munmap
        self._unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        if os.uname().machine == "x86_64":
            flags |= _MAP_32BIT
        self.base = 0
        for hint in range(0x20000000, 0xF0000000, 0x10000000):
            found = libc.mmap(hint, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
            if found != _FAILED and found + mmap.PAGESIZE <= 1 << 32:
                self.base = found
                break
            if found != _FAILED:
                self._unmap(found, mmap.PAGESIZE)
        if not self.base:
            raise MissingCapability(
                "no memory below 4 GiB", "the system places everything above it"
            )

    def put(self, type: str, data: bytes, *, lowered: bool = False) -> tuple[int, int, int]:
        """Addresses of context and packet, bytes of the context.

        The packet ends at the end of the page, so that overruns are seen; a context without a packet does as well.
        """
        start = self.base + mmap.PAGESIZE - len(data)
        ctypes.memmove(start, data, len(data))
        end = start + len(data)
        if type in CONTEXT_BYTES:
            size = CONTEXT_BYTES[type]
            at = self.base + mmap.PAGESIZE - size
            ctypes.memmove(at, plain_context(type, data), size)
            return at, start, size
        if type == "xdp":
            kernel = struct.pack("<6I", start, end, start, 1, 0, 0)
            context = native_xdp(start, end) if lowered else kernel
        elif lowered:
            context = native_skb(start, end)
        else:
            context = struct.pack("<76xII108x", start, end)
        ctypes.memmove(self.base, context, len(context))
        return self.base, start, len(context)

    def close(self) -> None:
        """Let the memory go."""
        if self.base:
            self._unmap(self.base, mmap.PAGESIZE)
            self.base = 0


def plain_context(type: str, data: bytes) -> bytes:
    """The context of a program without a packet, made of the bytes that others have as packet."""
    size = CONTEXT_BYTES[type]
    return (data * (size // max(len(data), 1) + 1)).ljust(size, b"\0")[:size]


class InterpreterEngine:
    """The reference interpreter with reference maps; raises ProgramFault."""

    name = "interpreter"

    def __init__(self) -> None:
        self._packet = Packet()

    def run(
        self, one: FuzzProgram, may_goto: int | None = None, *, inlined: bool = False
    ) -> Result:
        """One run with fresh maps, and as many rounds of may_goto (None: as in the kernel).

        With `inlined`, bpf_loop's -E2BIG has a zero upper half, as where the kernel has it in line
        (inline_bpf_loop in kernel/bpf/verifier.c: a 32-bit move).
        """
        maps = [ReferenceMap(shape) for shape in MAPS]
        helpers = dict(REFERENCE_HELPERS)
        if inlined:
            loop = helpers[_LOOP]
            helpers[_LOOP] = lambda *given: loop(*given) & 0xFFFFFFFF
        machine = Interpreter(
            one.program, maps=maps, helpers=helpers, steps=_STEPS, may_goto=may_goto
        )
        type = one.program.type
        context, packet, size = self._packet.put(type, one.packet)
        regions = [(context, size, "context", type in ("syscall", "sched_cls"))]
        if type not in CONTEXT_BYTES:
            regions.append((packet, len(one.packet), "packet", True))
        outcome = machine.run([context], regions, packet=(packet, len(one.packet)))
        after = _after(type, context, packet, one)
        return Result(outcome.r0, after, tuple(used.content for used in maps))

    def close(self) -> None:
        """Let its memory go."""
        self._packet.close()


class CompiledEngine:
    """Compiled code with the runtime's own maps and helpers."""

    def __init__(self, tier: str) -> None:
        self.name = tier
        self._packet = Packet()
        self._space = Space(None)
        self._maps = [self._space.create(shape) for shape in MAPS]
        self._zero = [bytes(shape.value_size) for shape in MAPS]
        from workbench.native.library import load

        self._execute = load().wb_execute
        self._execute.restype = ctypes.c_uint64
        self._execute.argtypes = [ctypes.c_void_p] * 3

    def run(self, one: FuzzProgram, verdict: Verdict | None = None) -> Result:
        """One run with empty maps; only for programs that a verifier accepted.

        With our verifier's verdict the program is lowered and compiled as for users; without, as it stands.
        """
        for used, shape, zero in zip(self._maps, MAPS, self._zero, strict=True):
            for index in range(shape.max_entries if shape.type == 2 else 0):
                used.update(index.to_bytes(4, "little"), zero)
            if shape.type != 2:
                used.delete_many(used.table()[0])
        code = one.program if verdict is None else lower(one.program, verdict)
        program = Program(code, MAPS, self._maps, verdict, cached=False)
        try:
            program.start(self.name)
            type = one.program.type
            context, packet, _ = self._packet.put(type, one.packet, lowered=verdict is not None)
            r0 = self._execute(program.address, context, current_run(self._space))
        finally:
            program.close()
        after = _after(type, context, packet, one)
        return Result(
            r0,
            after,
            tuple(_content(used, shape) for used, shape in zip(self._maps, MAPS, strict=True)),
        )

    def close(self) -> None:
        """Let its maps go."""
        self._packet.close()
        self._space.close()


def _after(type: str, context: int, packet: int, one: FuzzProgram) -> bytes:
    """The packet, or what a program without one has in its place, after a run."""
    if type in CONTEXT_BYTES:
        return b""
    return ctypes.string_at(packet, len(one.packet))


def _content(used: Any, shape: Any) -> dict[bytes, bytes]:
    keys, values = used.table()
    return {
        bytes(key.tobytes()): bytes(value.tobytes()[: shape.value_size])
        for key, value in zip(keys, values, strict=True)
    }


class KernelEngine:
    """BPF_PROG_TEST_RUN; raises VerifierRejected where the kernel refuses the program."""

    name = "kernel"

    def run(self, one: FuzzProgram) -> Result | None:
        """One run with fresh maps; None where the kernel has no test run for programs of its type."""
        type = one.program.type
        if type not in PROGRAM_TYPES:
            return None
        maps = [KernelMap(shape) for shape in MAPS]
        try:
            with KernelProgram(one.program.code, type, maps, one.program.functions) as loaded:
                if type in CONTEXT_BYTES:
                    r0, packet = loaded.run(context=plain_context(type, one.packet))[0], b""
                else:
                    r0, packet = loaded.run(one.packet)
            return Result(r0, packet, tuple(used.content for used in maps))
        finally:
            for used in maps:
                used.close()

    def close(self) -> None:
        """Nothing is kept."""


def compare(
    name: str, one: Result, peer: str, other: Result, *, narrow: bool = False
) -> Difference | None:
    """What differs; `narrow` compares the low 32 bits of r0."""
    mask = 0xFFFFFFFF if narrow else (1 << 64) - 1
    if one.r0 & mask != other.r0 & mask:
        return Difference(name, peer, f"r0 is {one.r0 & mask:#x}, not {other.r0 & mask:#x}")
    if one.packet != other.packet:
        at = next(
            i
            for i, pair in enumerate(zip(one.packet, other.packet, strict=False))
            if pair[0] != pair[1]
        )
        return Difference(name, peer, f"the packet differs from byte {at}")
    for shape, mine, theirs in zip(MAPS, one.maps, other.maps, strict=True):
        if mine != theirs:
            keys = [
                key.hex() for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)
            ]
            return Difference(name, peer, f"map {shape.name} differs at {', '.join(sorted(keys))}")
    return None
