"""The code that a patched place jumps to: lower the stack, call the agent, run the displaced instructions, go back.

    lea -(168 + red zone)(%rsp), %rsp      room for struct pt_regs, below the red zone in the middle of a function
    mov %rax, 80(%rsp)
    lea SITE(%rip), %rax
    call *ENTER(%rip)                      wb_enter: saves, runs the programs, restores
    jc special                             only at a function's entry, where flags are dead
    [pushq 144(%rsp); popfq]               only in the middle of a function
    lea 168+red zone(%rsp), %rsp
    the displaced instructions
    jmp back
    special: jnz swap
    movq %rax, %xmm0; lea 168(%rsp), %rsp; ret
    swap: lea 176(%rsp), %rsp              room and return address are dropped
    call follow                            and the return address is written again: BACK
    BACK: jmp *RETURNED(%rip)              the function returns to here
    follow: the displaced instructions
    jmp back

The processor predicts returns by pairing them with calls, so a return address is swapped by a call, and wb_returned
goes on to the caller by a return. A skipped function
gives the value in both result registers: a function that returns an integer leaves xmm0 undefined, one that
returns a double leaves rax undefined.
"""

from __future__ import annotations

import struct

from workbench.runtime.attach.relocate import Displaced, displaced

__all__ = ("IMAGE", "RED_ZONE", "jump", "trampoline")

IMAGE = 168
RED_ZONE = 128
_LONGEST = 15 + 160


def _stack(change: int) -> bytes:
    return b"\x48\x8d\xa4\x24" + struct.pack("<i", change)


def jump(at: int, to: int) -> bytes:
    """`jmp to` at `at`: 5 bytes."""
    return b"\xe9" + struct.pack("<i", to - at - 5)


def trampoline(
    at: int, site: int, enter: int, moved: Displaced, *, entry: bool
) -> tuple[bytes, int]:
    """Code of one trampoline, and the address that a followed function returns to (0: none).

    Parameters
    ----------
    at : int
        Where it will lie.
    site : int
        Address of its struct wb_site.
    enter : int
        Address of the words that hold wb_enter's and wb_returned's addresses.
    moved : Displaced
    entry : bool
        The place is a function's first instruction.
    """
    red = 0 if entry else RED_ZONE
    code = bytearray(_stack(-IMAGE - red))
    code += b"\x48\x89\x44\x24\x50"
    code += b"\x48\x8d\x05" + struct.pack("<i", site - (at + len(code) + 7))
    code += b"\xff\x15" + struct.pack("<i", enter - (at + len(code) + 6))
    if not entry:
        code += b"\xff\xb4\x24\x90\x00\x00\x00\x9d" + _stack(IMAGE + red)
        return bytes(code + displaced(moved, at + len(code))), 0
    code += b"\x0f\x82" + bytes(4)
    special = len(code)
    code += _stack(IMAGE)
    code += displaced(moved, at + len(code))
    struct.pack_into("<i", code, special - 4, len(code) - special)
    skip = b"\x66\x48\x0f\x6e\xc0" + _stack(IMAGE) + b"\xc3"
    code += b"\x75" + bytes([len(skip)]) + skip
    code += _stack(IMAGE + 8)
    code += b"\xe8" + struct.pack("<i", 6)
    back = at + len(code)
    code += b"\xff\x25" + struct.pack("<i", enter + 8 - (back + 6))
    code += displaced(moved, at + len(code))
    return bytes(code), back
