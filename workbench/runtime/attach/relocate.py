"""Displace instructions: may the bytes at an address be replaced by a jump, and how they run elsewhere.

iced-x86 decodes and re-encodes (RIP-relative operands, short branches that become long ones). A call is not encoded as
a call: it pushes the ORIGINAL return address and jumps, so that unwinders, which look up return addresses, never see
the trampoline. A jump is impossible where a branch leads into the bytes behind the first instruction, and where a
call's return address would lie inside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = (
    "JUMP",
    "Displaced",
    "Unjumpable",
    "branch_targets",
    "displaced",
    "padding",
    "plan",
)

JUMP = 5
_PADDING = (0x90, 0xCC, 0x00)


class Unjumpable(Exception):
    """No jump can be written at this place; the text says why."""


@dataclass(frozen=True, slots=True)
class Displaced:
    """Instructions that a patch replaces: `length` bytes from `address` on (at least as many as the patch)."""

    address: int
    length: int
    instructions: tuple[Any, ...]


def branch_targets(code: bytes, address: int) -> set[int]:
    """Targets of the direct branches in `code`; calls left out but to places inside `code`."""
    from iced_x86 import Decoder, FlowControl, Mnemonic

    wanted = (
        FlowControl.UNCONDITIONAL_BRANCH,
        FlowControl.CONDITIONAL_BRANCH,
        FlowControl.CALL,
        FlowControl.XBEGIN_XABORT_XEND,
    )
    decoder = Decoder(64, code, ip=address)
    return {
        instruction.near_branch_target
        for instruction in decoder
        if instruction.flow_control in wanted and instruction.mnemonic != Mnemonic.SYSCALL
    }


def plan(
    code: bytes, address: int, size: int, *, targets: Iterable[int] = (), need: int = JUMP
) -> Displaced:
    """The instructions to displace for a patch of `need` bytes at `address`.

    Parameters
    ----------
    code : bytes
        Memory from `address` on: the rest of the function and, behind it, at least `need` bytes where there are any.
    address : int
    size : int
        Bytes from `address` to the end of the function; what follows counts only as padding.
    targets : iterable of int
        Where branches of the function lead.

    Raises
    ------
    Unjumpable
    """
    from iced_x86 import Code, Decoder, FlowControl, Mnemonic

    decoder = Decoder(64, code[:size], ip=address)
    taken: list[Any] = []
    length = 0
    ended = False
    while length < need and decoder.can_decode:
        instruction = decoder.decode()
        if instruction.code == Code.INVALID:
            raise Unjumpable("its first bytes are no instructions")
        taken.append(instruction)
        length += instruction.len
        flow = instruction.flow_control
        ended = flow in (
            FlowControl.RETURN,
            FlowControl.UNCONDITIONAL_BRANCH,
            FlowControl.INDIRECT_BRANCH,
            FlowControl.EXCEPTION,
        )
        if (
            instruction.mnemonic in (Mnemonic.SYSCALL, Mnemonic.SYSENTER)
            or flow == FlowControl.INTERRUPT
        ):
            # The kernel restarts an interrupted call by going back to its instruction.
            raise Unjumpable("a system call or trap lies in the bytes that a jump would replace")
        if flow in (FlowControl.CALL, FlowControl.INDIRECT_CALL) and length < need:
            raise Unjumpable("a call returns into the bytes that a jump would replace")
        if ended:
            break
    if not taken:
        raise Unjumpable("it is empty")
    if length < need:
        if not ended:
            raise Unjumpable("it runs on into what follows it")
        if len(code) < need or not padding(code[length:], need - length):
            raise Unjumpable(f"it is {length} bytes long and no padding follows")
    inside = [at for at in targets if address < at < address + need]
    if inside:
        raise Unjumpable(f"a branch leads to its byte {inside[0] - address}")
    return Displaced(address, length, tuple(taken))


def padding(code: bytes, size: int) -> bool:
    """Whether the first `size` bytes are padding between functions (nop of any length, int3, zero bytes)."""
    from iced_x86 import Decoder, Mnemonic

    at = 0
    while at < size:
        if code[at] in _PADDING:
            at += 1
            continue
        decoder = Decoder(64, code[at:], ip=0)
        instruction = decoder.decode()
        if instruction.mnemonic != Mnemonic.NOP:
            return False
        at += instruction.len
    return True


def displaced(one: Displaced, at: int) -> bytes:
    """Code at `at` that does what the displaced instructions did and goes on behind them.

    Raises
    ------
    Unjumpable
        An instruction cannot be moved so far.
    """
    from iced_x86 import BlockEncoder, Code, FlowControl, Instruction

    block: list[Any] = []
    for instruction in one.instructions:
        flow = instruction.flow_control
        if flow in (FlowControl.CALL, FlowControl.INDIRECT_CALL):
            block += _call(instruction)
        else:
            block.append(instruction)
    last = one.instructions[-1].flow_control
    ends = (
        FlowControl.RETURN,
        FlowControl.UNCONDITIONAL_BRANCH,
        FlowControl.INDIRECT_BRANCH,
        FlowControl.CALL,
        FlowControl.INDIRECT_CALL,
    )
    if last not in ends:
        block.append(Instruction.create_branch(Code.JMP_REL32_64, one.address + one.length))
    encoder = BlockEncoder(64)
    for instruction in block:
        encoder.add(instruction)
    try:
        encoded: bytes = encoder.encode(at)
    except ValueError as error:
        raise Unjumpable(f"its instructions cannot be moved: {error}") from error
    return encoded


def _call(instruction: Any) -> list[Any]:
    """Push the original return address, jump to the callee. No register and no flag changes."""
    from iced_x86 import Code, FlowControl, Instruction, MemoryOperand, OpKind, Register

    back = instruction.next_ip
    low = back & 0xFFFFFFFF
    push = Instruction.create_i32(Code.PUSHQ_IMM32, low - (1 << 32) if low >> 31 else low)
    high = Instruction.create_mem_u32(
        Code.MOV_RM32_IMM32, MemoryOperand(Register.RSP, displ=4, displ_size=1), back >> 32
    )
    if instruction.flow_control == FlowControl.CALL:
        return [
            push,
            high,
            Instruction.create_branch(Code.JMP_REL32_64, instruction.near_branch_target),
        ]
    if instruction.op0_kind == OpKind.REGISTER:
        register = instruction.op0_register
        if register == Register.RSP:
            raise Unjumpable("it calls through its stack pointer")
        return [push, high, Instruction.create_reg(Code.JMP_RM64, register)]
    if Register.RSP in (instruction.memory_base, instruction.memory_index):
        raise Unjumpable("it calls through its stack")
    jump = instruction.copy()
    jump.code = Code.JMP_RM64
    return [push, high, jump]
