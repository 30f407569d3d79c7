"""Registers, frames and the instructions themselves."""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from workbench.runtime.interpreter.arithmetic import (
    ARITHMETIC,
    COMPARE,
    SIGNED_ARITHMETIC,
    byte_swap,
    signed,
)
from workbench.runtime.interpreter.fault import Misuse, ProgramFault
from workbench.runtime.interpreter.memory import Allocation, Memory
from workbench.runtime.isa import opcodes as op
from workbench.runtime.isa.codec import check_targets, decode_slots
from workbench.runtime.isa.instruction import Instruction

if TYPE_CHECKING:
    import pandas as pd

    from workbench.objects.linked import Line, LinkedProgram

__all__ = ("HelperFunction", "Interpreter", "MapMemory", "Outcome", "TailCall")

MASK64 = (1 << 64) - 1
STACK_BYTES = 512  # of a frame; MAX_BPF_STACK
FRAMES = 8  # MAX_CALL_FRAMES
MAY_GOTO_LOOPS = 8 << 20  # BPF_MAX_LOOPS

HelperFunction: TypeAlias = Callable[["Interpreter", int, int, int, int, int], int]
_Callback = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 5, ctypes.c_void_p)


class MapMemory(Protocol):
    """A map as the interpreter sees it."""

    name: str
    key_size: int
    value_size: int

    @property
    def handle(self) -> int:
        """What a program holds for the map."""

    @property
    def writable(self) -> bool:
        """Programs may write values."""

    def values(self) -> tuple[int, int]:
        """Address and length of the first element's value, for programs that address it directly."""


class TailCall(Exception):
    """bpf_tail_call succeeded: the run goes on in another program."""

    def __init__(self, target: Interpreter) -> None:
        super().__init__()
        self.target = target


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left.

    Attributes
    ----------
    r0 : int
        Unsigned 64 bits.
    steps : int
        Instructions executed.
    printed : tuple of str
        What the program printed by bpf_trace_printk.
    trace : tuple of (int, tuple)
        With `trace=True`: slot and r0 to r10 before each step; None = never set.
    """

    r0: int
    steps: int
    printed: tuple[str, ...] = ()
    trace: tuple[tuple[int, tuple[int | None, ...]], ...] = ()

    @property
    def frame(self) -> pd.DataFrame:
        """The trace as a table: step, slot, r0 to r10 (UInt64, missing where never set)."""
        import pandas as pd

        table = pd.DataFrame({"slot": pd.array([slot for slot, _ in self.trace], dtype="Int64")})
        table.index.name = "step"
        for number in range(op.REGISTERS):
            table[f"r{number}"] = pd.array([row[number] for _, row in self.trace], dtype="UInt64")
        return table


class Interpreter:
    """Runs one program, again and again if asked.

    Parameters
    ----------
    program : LinkedProgram or bytes
        The program, or raw RFC 9669 code.
    maps : sequence of MapMemory
        By the index in the code.
    helpers : mapping of int to callable
        By number; called with the interpreter and r1 to r5, the result goes to r0.
    steps : int
        Instructions after which a run is a fault.
    trace : bool
        Keep the registers of every step.
    zeroed : bool
        Registers that were never set read as 0; else reading one is a fault.
    may_goto : int, optional
        Rounds of may_goto in a call of a function; by default as in the kernel, 8 Mi.

    Raises
    ------
    BadInstruction
        The code is not RFC 9669 code.
    """

    def __init__(
        self,
        program: LinkedProgram | bytes,
        *,
        maps: Sequence[MapMemory] = (),
        helpers: Mapping[int, HelperFunction] | None = None,
        steps: int = 10_000_000,
        trace: bool = False,
        zeroed: bool = False,
        may_goto: int | None = None,
    ) -> None:
        self.name = "" if isinstance(program, bytes) else program.name
        self.type = "" if isinstance(program, bytes) else program.type
        self._lines: tuple[Line, ...] = () if isinstance(program, bytes) else program.lines
        self._slots = decode_slots(program if isinstance(program, bytes) else program.code)
        check_targets(self._slots)
        self.maps = tuple(maps)
        self.map_at = {one.handle: one for one in self.maps}
        self.helpers: Mapping[int, HelperFunction] = helpers or {}
        self._limit = steps
        self._keep_trace = trace
        self._zeroed = zeroed
        self._loops = MAY_GOTO_LOOPS if may_goto is None else may_goto
        self._callbacks: dict[int, tuple[int, Any]] = {}  # slot -> (address, ctypes object)
        self._slot_at: dict[int, int] = {}  # address of a callback -> slot
        self._reset()

    def _reset(self) -> None:
        self.memory = Memory()
        self.printed: list[str] = []
        self.context = 0
        self.packet: tuple[int, int] = (0, 0)
        self.tail_calls = 0
        self._trace: list[tuple[int, tuple[int | None, ...]]] = []
        self._steps = 0
        self._depth = 0
        self._pending: BaseException | None = None
        self._slot = 0
        self._registers: list[int | None] = [None] * op.REGISTERS

    # --- running ------------------------------------------------------------------------------------------------

    def run(
        self,
        arguments: Sequence[int] = (),
        regions: Iterable[tuple[int, int, str, bool]] = (),
        *,
        packet: tuple[int, int] = (0, 0),
    ) -> Outcome:
        """Run the program.

        Parameters
        ----------
        arguments : sequence of int
            r1 and on: the address of the context.
        regions : iterable of (address, length, name, writable)
            Memory of this process that the program may touch besides its stack and its maps.
        packet : (int, int)
            Address and length of the packet that LD_ABS and LD_IND read.

        Raises
        ------
        ProgramFault
            It did what an accepted program never does.
        """
        self._reset()
        self.packet = packet
        self.context = arguments[0] if arguments else 0
        for start, length, name, writable in regions:
            if length:
                self.memory.add(start, length, name, writable=writable, aligned=name == "context")
        r0 = self.call(0, arguments)
        return Outcome(r0, self._steps, tuple(self.printed), tuple(self._trace))

    def _continue(self, target: Interpreter) -> int:
        """Run the program of a tail call in place of the function that made it: same memory, context and counters."""
        if target is not self:
            target._reset()
            target.memory, target.printed, target._trace = self.memory, self.printed, self._trace
            target.context, target.packet = self.context, self.packet
            target._steps, target._depth = self._steps, self._depth
        target.tail_calls = self.tail_calls + 1
        result = target.call(0, [self.context])
        self._steps, self.tail_calls = target._steps, target.tail_calls
        return result

    def _fault(self, reason: str) -> ProgramFault:
        return ProgramFault(self.name, self._slot, reason, self.line(self._slot), self._registers)

    def line(self, slot: int) -> Line | None:
        """The C line of the instruction at `slot`."""
        at = bisect_right(self._lines, slot, key=lambda line: line.instruction) - 1
        return self._lines[at] if at >= 0 else None

    def call(self, slot: int, arguments: Sequence[int | None]) -> int:
        """Run the function at `slot` with r1 and on; its r0. Subprograms and callbacks come through here as well.

        Raises
        ------
        ProgramFault
            It did what an accepted program never does.
        """
        if self._depth == FRAMES:
            raise Misuse(f"calls deeper than {FRAMES} frames")
        stack = Allocation(STACK_BYTES)
        self.memory.add(
            stack.address, STACK_BYTES, f"stack of frame {self._depth}", aligned=True, owner=stack
        )
        registers: list[int | None] = [0 if self._zeroed else None] * op.REGISTERS
        registers[1 : 1 + len(arguments)] = [
            one if one is None else one & MASK64 for one in arguments
        ]
        registers[op.FRAME_POINTER] = stack.address + STACK_BYTES
        saved = self._registers, self._slot
        self._depth += 1
        following: Interpreter | None = None
        result = 0
        try:
            result = self._function(slot, registers)
        except TailCall as call:
            following = call.target
        except Misuse as misuse:
            raise self._fault(str(misuse)) from None
        finally:
            self._depth -= 1
            self.memory.remove(stack.address)
        if following is not None:
            result = self._continue(following)
        self._registers, self._slot = saved
        return result

    def _function(self, slot: int, registers: list[int | None]) -> int:
        slots, loops = self._slots, self._loops
        self._registers = registers
        while True:
            self._slot = slot
            if slot >= len(slots):
                raise Misuse("runs past the end of the code")
            one = slots[slot]
            if one is None:
                raise Misuse("runs into the second half of a 64-bit immediate")
            if self._steps >= self._limit:
                raise Misuse(f"is not done after {self._limit:,} instructions")
            self._steps += 1
            if self._keep_trace:
                self._trace.append((slot, tuple(registers)))
            slot += one.slots
            kind = one.kind
            if kind in (op.ALU, op.ALU64):
                self._arithmetic(one, registers)
            elif kind in (op.JMP, op.JMP32):
                if one.opcode == op.EXIT_OP:
                    return self._get(registers, 0)
                if one.opcode == op.MAY_GOTO:
                    loops -= 1
                    slot += one.offset if loops < 0 else 0
                elif one.opcode in (op.CALL_IMM, op.CALLX):
                    self._call(one, registers)
                elif self._taken(one, registers):
                    slot = one.target(slot - 1)
            elif kind == op.LD:
                if one.opcode == op.LD_IMM64:
                    self._set(registers, one.dst, self._immediate(one))
                elif not self._packet_load(one, registers):
                    return 0  # outside the packet: the program ends with 0 (linux filter.rst)
            else:
                self._memory(one, registers)

    def _get(self, registers: Sequence[int | None], number: int) -> int:
        value = registers[number]
        if value is None:
            raise Misuse(f"reads r{number}, which has no value")
        return value

    def _set(self, registers: list[int | None], number: int, value: int) -> None:
        if number == op.FRAME_POINTER:
            raise Misuse("writes r10, the frame pointer")
        registers[number] = value

    # --- arithmetic and jumps -----------------------------------------------------------------------------------

    def _second(self, one: Instruction, registers: Sequence[int | None]) -> int:
        return self._get(registers, one.src) if one.from_register else one.imm & MASK64

    def _arithmetic(self, one: Instruction, registers: list[int | None]) -> None:
        bits = 64 if one.kind == op.ALU64 else 32
        mask = (1 << bits) - 1
        if one.operation == op.END:
            value = self._get(registers, one.dst)
            swapped = one.kind == op.ALU64 or one.from_register  # bswap, or to big endian
            kept = value & ((1 << one.imm) - 1)
            self._set(registers, one.dst, byte_swap(value, one.imm) if swapped else kept)
            return
        if one.operation == op.NEG:
            self._set(registers, one.dst, -self._get(registers, one.dst) & mask)
            return
        second = self._second(one, registers)
        if one.operation == op.MOV:
            if one.offset:
                second = signed(second, one.offset)
            self._set(registers, one.dst, second & mask)
            return
        table = SIGNED_ARITHMETIC if one.offset else ARITHMETIC
        first = self._get(registers, one.dst)
        result = table[one.operation](first & mask, second & mask, bits)
        self._set(registers, one.dst, result & mask)

    def _taken(self, one: Instruction, registers: Sequence[int | None]) -> bool:
        if one.operation == op.JA:
            return True
        bits = 64 if one.kind == op.JMP else 32
        mask = (1 << bits) - 1
        first, second = self._get(registers, one.dst), self._second(one, registers)
        return COMPARE[one.operation](first & mask, second & mask, bits)

    # --- calls --------------------------------------------------------------------------------------------------

    def _call(self, one: Instruction, registers: list[int | None]) -> None:
        if one.opcode == op.CALL_IMM and one.src == op.CALL_LOCAL:
            registers[0] = self.call(one.target(self._slot), registers[1:6])
        elif one.src == op.CALL_KFUNC:
            raise Misuse(f"calls kernel function {one.imm}: user space has none")
        else:
            registers[0] = self._helper(one, registers)
        registers[1:6] = [0 if self._zeroed else None] * 5

    def _helper(self, one: Instruction, registers: Sequence[int | None]) -> int:
        number = self._get(registers, one.dst) if one.opcode == op.CALLX else one.imm & 0xFFFFFFFF
        helper = self.helpers.get(number)
        if helper is None:
            from workbench.runtime.isa.helper_names import helper_name

            raise Misuse(f"calls helper {number} {helper_name(number)}: there is none here")
        first, second, third, fourth, fifth = (value or 0 for value in registers[1:6])
        result = helper(self, first, second, third, fourth, fifth)
        if self._pending is not None:
            pending, self._pending = self._pending, None
            raise pending
        return result & MASK64

    def callback(self, address: int, *arguments: int) -> int:
        """Call the program's function that a helper was given the address of.

        Raises
        ------
        Misuse
            There is no function at that address.
        """
        if address not in self._slot_at:
            raise Misuse(f"callback {address:#x} is no function of the program")
        return self.call(self._slot_at[address], arguments)

    def _function_address(self, slot: int) -> int:
        """An address that native helpers can call as well (`wb_callback` in runtime.h)."""
        if slot not in self._callbacks:

            def enter(r1: int, r2: int, r3: int, r4: int, r5: int, _run: int) -> int:
                if self._pending is not None:
                    return 1
                try:
                    return self.call(slot, (r1, r2, r3, r4, r5))
                except BaseException as error:  # must not pass through C; _helper raises it again
                    self._pending = error
                    return 1

            function = _Callback(enter)
            address = ctypes.cast(function, ctypes.c_void_p).value or 0
            self._callbacks[slot] = address, function
            self._slot_at[address] = slot
        return self._callbacks[slot][0]

    # --- memory -------------------------------------------------------------------------------------------------

    def _immediate(self, one: Instruction) -> int:
        if one.src == op.PSEUDO_NONE:
            return one.imm64
        if one.src == op.PSEUDO_FUNC:
            return self._function_address(one.target(self._slot))
        if one.src in (op.PSEUDO_MAP_IDX, op.PSEUDO_MAP_IDX_VALUE):
            if not 0 <= one.imm < len(self.maps):
                raise Misuse(f"refers to map {one.imm}, of {len(self.maps)}")
            used = self.maps[one.imm]
            if one.src == op.PSEUDO_MAP_IDX:
                return used.handle
            start, length = used.values()
            self.memory.add(start, length, f"value of {used.name}", writable=used.writable)
            return start + one.next_imm & MASK64
        raise Misuse(f"has a 64-bit immediate of type {one.src}, which only the kernel resolves")

    def _packet_load(self, one: Instruction, registers: list[int | None]) -> bool:
        """LD_ABS and LD_IND: big-endian data of the packet to r0; False outside of it."""
        start, length = self.packet
        self._get(registers, 6)
        index = self._get(registers, one.src) if one.mode == op.IND else 0
        at = signed(index + one.imm, 32)
        if not 0 <= at <= length - one.size:
            return False
        registers[1:6] = [0 if self._zeroed else None] * 5
        registers[0] = int.from_bytes(ctypes.string_at(start + at, one.size), "big")
        return True

    def _memory(self, one: Instruction, registers: list[int | None]) -> None:
        size, memory = one.size, self.memory
        if one.kind == op.LDX:
            value = memory.load(self._get(registers, one.src) + one.offset & MASK64, size)
            if one.mode == op.MEMSX:
                value = signed(value, size * 8) & MASK64
            self._set(registers, one.dst, value)
            return
        if one.mode == op.ATOMIC:
            self._atomic(one, registers)
            return
        value = one.imm if one.kind == op.ST else self._get(registers, one.src)
        memory.store(self._get(registers, one.dst) + one.offset & MASK64, size, value)

    def _atomic(self, one: Instruction, registers: list[int | None]) -> None:
        """RFC 9669 section 5.3. One thread interprets: no other can come between load and store."""
        size, memory = one.size, self.memory
        mask = (1 << 8 * size) - 1
        if one.imm == op.LOAD_ACQ:
            where = self._get(registers, one.src) + one.offset & MASK64
            self._set(registers, one.dst, memory.load(where, size, strict=True))
            return
        where = self._get(registers, one.dst) + one.offset & MASK64
        source = self._get(registers, one.src)
        if one.imm == op.STORE_REL:
            memory.store(where, size, source, strict=True)
            return
        before = memory.load(where, size, strict=True)
        if one.imm == op.CMPXCHG:
            if before == self._get(registers, 0) & mask:
                memory.store(where, size, source, strict=True)
            registers[0] = before
            return
        after = source
        if one.imm != op.XCHG:
            after = ARITHMETIC[one.imm & ~op.FETCH](before, source & mask, size * 8)
        memory.store(where, size, after, strict=True)
        if one.imm & op.FETCH:
            self._set(registers, one.src, before)
