"""The code that a patched system call jumps to.

    displaced instructions before it
    movzwl %ax, %ecx; mov WANTED(%rip), %r11; movzbl (%r11,%rcx), %ecx
    jrcxz straight                           no program wants this number; flags are not touched
    lea -304(%rsp), %rsp                     red zone and struct pt_regs
    lea RECORD(%rip), %r11; call *ENTER(%rip)   programs, the call, programs
    [pushq flags; popfq]                     only where code may look at flags from before
    lea 304(%rsp), %rsp
    jrcxz after
    lea -1(%rcx), %rcx; jrcxz straight       does not return
    lea -1(%rcx), %rcx; jrcxz vfork
    lea -1(%rcx), %rcx; jrcxz clone
    syscall; mov $435, %r11d; jmp returned
    vfork: syscall; mov $58, %r11d; jmp returned
    clone: syscall; mov $56, %r11d
    returned: lea -304(%rsp), %rsp
    mov %rax, %rcx; jrcxz child
    lea RECORD(%rip), %rcx; call *LEAVE(%rip); jmp done
    child: call *CHILD(%rip)
    done: [pushq flags; popfq]; lea 304(%rsp), %rsp; jmp after
    straight: syscall
    after: displaced instructions behind it
    jmp back

A call that the kernel interrupts and restarts goes back by two bytes, to the `syscall` that it was made with. rcx and
r11 are free: a system call overwrites them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from workbench.runtime.attach.relocate import Unjumpable

__all__ = ("CallTrampoline", "call_trampoline")

_FRAME = 304
_FLAGS = 144
_CLONE3, _VFORK, _CLONE = 435, 58, 56
SYSCALL = b"\x0f\x05"


@dataclass(frozen=True, slots=True)
class CallTrampoline:
    """Bytes, and where a thread goes on that is at an old instruction: old address -> new address."""

    code: bytes
    moved: dict[int, int]


def _stack(change: int) -> bytes:
    return b"\x48\x8d\xa4\x24" + struct.pack("<i", change)


class _Code:
    """Machine code with labels that are reached by 1-byte or 4-byte distances."""

    def __init__(self, at: int) -> None:
        self.at, self.bytes = at, bytearray()
        self._labels: dict[str, int] = {}
        self._wanted: list[tuple[int, int, str]] = []

    @property
    def here(self) -> int:
        return self.at + len(self.bytes)

    def __iadd__(self, data: bytes) -> _Code:
        self.bytes += data
        return self

    def label(self, name: str) -> None:
        self._labels[name] = self.here

    def near(self, opcode: bytes, name: str) -> None:
        """`opcode` and the distance to a label in one byte."""
        self.bytes += opcode + b"\0"
        self._wanted.append((len(self.bytes) - 1, 1, name))

    def far(self, opcode: bytes, name: str) -> None:
        """The same in four bytes."""
        self.bytes += opcode + bytes(4)
        self._wanted.append((len(self.bytes) - 4, 4, name))

    def to(self, opcode: bytes, address: int) -> None:
        """`opcode` with a RIP-relative operand (or target) at an address."""
        self.bytes += opcode + struct.pack("<i", address - (self.here + len(opcode) + 4))

    def done(self) -> bytes:
        for place, size, name in self._wanted:
            distance = self._labels[name] - (self.at + place + size)
            struct.pack_into("<b" if size == 1 else "<i", self.bytes, place, distance)
        return bytes(self.bytes)


def _encoded(instruction: Any, at: int) -> bytes:
    from iced_x86 import BlockEncoder

    encoder = BlockEncoder(64)
    encoder.add(instruction)
    try:
        encoded: bytes = encoder.encode(at)
    except ValueError as error:
        raise Unjumpable(f"its instructions cannot be moved: {error}") from error
    return encoded


def call_trampoline(
    at: int, record: int, words: int, displaced: list[Any], *, keeps_flags: bool
) -> CallTrampoline:
    """Code of one trampoline.

    Parameters
    ----------
    at : int
        Where it will lie.
    record : int
        Address of the site's record.
    words : int
        Address of the words that hold the addresses of wb_call_enter, _leave, _born and of wb_call_wanted.
    displaced : list of Instruction
        In order, one of them the system call.
    keeps_flags : bool
        See `CallSite`.

    Raises
    ------
    Unjumpable
    """
    from iced_x86 import FlowControl, Mnemonic

    index = next(i for i, one in enumerate(displaced) if one.mnemonic == Mnemonic.SYSCALL)
    before, call, after = displaced[:index], displaced[index].ip, displaced[index + 1 :]
    end = displaced[-1].next_ip
    code, moved = _Code(at), dict[int, int]()
    for one in before:
        moved[one.ip] = code.here
        code += _encoded(one, code.here)
    flags = b"\xff\xb4\x24" + struct.pack("<i", _FLAGS) + b"\x9d" if keeps_flags else b""
    code += b"\x0f\xb7\xc8"
    code.to(b"\x4c\x8b\x1d", words + 24)
    code += b"\x41\x0f\xb6\x0c\x0b"
    code.near(b"\xe3", "plain")
    code += _stack(-_FRAME)
    code.to(b"\x4c\x8d\x1d", record)
    code.to(b"\xff\x15", words)
    code += flags + _stack(_FRAME)
    code.near(b"\xe3", "made")
    for name in ("plain", "vfork", "clone"):
        code += b"\x48\x8d\x49\xff"
        code.near(b"\xe3", name)
    code += SYSCALL + b"\x41\xbb" + struct.pack("<I", _CLONE3)
    code.near(b"\xeb", "returned")
    code.label("plain")
    code.far(b"\xe9", "straight")
    code.label("made")
    code.far(b"\xe9", "after")
    code.label("vfork")
    code += SYSCALL + b"\x41\xbb" + struct.pack("<I", _VFORK)
    code.near(b"\xeb", "returned")
    code.label("clone")
    code += SYSCALL + b"\x41\xbb" + struct.pack("<I", _CLONE)
    code.label("returned")
    code += _stack(-_FRAME) + b"\x48\x89\xc1"
    code.near(b"\xe3", "child")
    code.to(b"\x48\x8d\x0d", record)
    code.to(b"\xff\x15", words + 8)
    code.near(b"\xeb", "done")
    code.label("child")
    code.to(b"\xff\x15", words + 16)
    code.label("done")
    code += flags + _stack(_FRAME)
    code.near(b"\xeb", "after")
    code.label("straight")
    moved[call] = code.here
    code += SYSCALL
    code.label("after")
    moved[call + len(SYSCALL)] = code.here
    for one in after:
        moved[one.ip] = code.here
        code += _encoded(one, code.here)
    if not after or after[-1].flow_control not in (
        FlowControl.RETURN,
        FlowControl.UNCONDITIONAL_BRANCH,
    ):
        code.to(b"\xe9", end)
    return CallTrampoline(code.done(), moved)
