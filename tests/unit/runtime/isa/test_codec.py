"""Decoding refuses what RFC 9669 does not define, names the slot and the reason, and loses nothing."""

from __future__ import annotations

import struct

import pytest
from bpf_instructions import instructions
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.runtime.isa import (
    BadInstruction,
    Instruction,
    check_targets,
    decode,
    decode_slots,
    encode,
)
from workbench.runtime.isa import opcodes as op


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(instructions(), max_size=12))
def test_instructions_survive(made: list[Instruction]) -> None:
    code = encode(made)
    assert decode(code) == made
    slots = decode_slots(code)
    assert len(slots) * 8 == len(code) == sum(one.slots for one in made) * 8
    assert all(slots[n] is None for n in range(1, len(slots)) if (b := slots[n - 1]) is not None and b.slots == 2)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.binary(max_size=64))
def test_any_bytes_are_code_or_refused(data: bytes) -> None:
    try:
        made = decode(data)
    except BadInstruction as refused:
        assert 0 <= refused.slot <= len(data) // 8 and refused.reason in str(refused)
        return
    assert encode(made) == data
    try:
        check_targets(decode_slots(data))
    except BadInstruction as refused:
        assert refused.slot < len(data) // 8


def slot(opcode: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", opcode, src << 4 | dst, offset, imm)


EXIT = slot(0x95)
REFUSED = {
    "no whole slot": (EXIT + b"\0\0\0", 1, "no whole instruction"),
    "register 11": (slot(0xB7, 11), 0, "register r11 does not exist"),
    "source register 12": (slot(0xBF, 1, 12), 0, "register r12 does not exist"),
    "imm beside a register": (slot(0x0F, 1, 2, 0, 5), 0, "imm 5"),
    "register beside an imm": (slot(0x07, 1, 2), 0, "src 2"),
    "offset of add": (slot(0x07, 1, 0, 1, 5), 0, "offset 1"),
    "signed xor": (slot(0xAF, 1, 2, 1), 0, "offset 1"),
    "movsx of an immediate": (slot(0xB7, 1, 0, 8, 5), 0, "offset 8"),
    "movsx 32 to 32": (slot(0xBC, 1, 2, 32), 0, "offset 32"),
    "address space cast": (slot(0xBF, 1, 2, 1), 0, "arena"),
    "neg of a register": (slot(0x8F, 1, 2), 0, "not known"),
    "neg with imm": (slot(0x87, 1, 0, 0, 1), 0, "neg"),
    "swap of 24 bits": (slot(0xDC, 1, 0, 0, 24), 0, "24 bits"),
    "swap in ALU64 with source": (slot(0xDF, 1, 0, 0, 16), 0, "not known"),
    "ALU operation e": (slot(0xE7, 1), 0, "not known"),
    "jump by register": (slot(0x0D), 0, "not known"),
    "ja with imm": (slot(0x05, imm=1), 0, "must be 0"),
    "gotol with offset": (slot(0x06, offset=1), 0, "must be 0"),
    "jump operation f": (slot(0xF5), 0, "not known"),
    "call in JMP32": (slot(0x86), 0, "not known"),
    "exit in JMP32": (slot(0x96), 0, "not known"),
    "exit with imm": (slot(0x95, imm=1), 0, "exit"),
    "call type 3": (slot(0x85, src=3), 0, "call type 3"),
    "call with dst": (slot(0x85, 1), 0, "dst"),
    "call with offset": (slot(0x85, offset=1), 0, "offset"),
    "callx with src": (slot(0x8D, 1, 1), 0, "callx"),
    "may_goto with imm": (slot(0xE5, imm=3), 0, "may_goto"),
    "may_goto in JMP32": (slot(0xE6), 0, "not known"),
    "half a 64-bit immediate": (slot(0x18, 1), 0, "second half"),
    "second half with opcode": (slot(0x18, 1) + EXIT, 1, "second half"),
    "immediate type 7": (slot(0x18, 1, 7) + slot(0), 0, "type 7"),
    "map reference with two immediates": (slot(0x18, 1, 1) + slot(0, imm=4), 0, "map reference"),
    "packet load of 8 bytes": (slot(0x38), 0, "not known"),
    "packet load with dst": (slot(0x20, 1), 0, "packet load"),
    "absolute packet load with src": (slot(0x20, 0, 1), 0, "packet load"),
    "load with imm": (slot(0x79, 1, 2, 0, 1), 0, "imm 1"),
    "sign-extending load of 8 bytes": (slot(0x99, 1, 2), 0, "not known"),
    "store with src": (slot(0x7A, 1, 2), 0, "src 2"),
    "store with imm and register": (slot(0x7B, 1, 2, 0, 1), 0, "imm 1"),
    "sign-extending store": (slot(0x83, 1, 2), 0, "not known"),
    "atomic store of an immediate": (slot(0xDA, 1), 0, "not known"),
    "atomic subtraction": (slot(0xDB, 1, 2, 0, 0x10), 0, "0x10"),
    "atomic add of a byte": (slot(0xD3, 1, 2), 0, "4 or 8 bytes"),
    "exchange of two bytes": (slot(0xCB, 1, 2, 0, 0xE1), 0, "4 or 8 bytes"),
    "exchange without fetch": (slot(0xDB, 1, 2, 0, 0xE0), 0, "0xe0"),
    "later slot": (EXIT + EXIT + slot(0xFF), 2, "not known"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    code, where, reason = REFUSED[what]
    with pytest.raises(BadInstruction) as caught:
        decode(code)
    assert caught.value.slot == where
    assert reason in caught.value.reason
    assert f"slot {where}" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "where"),
    [
        (slot(0x05, offset=1) + EXIT, 0),
        (slot(0x05, offset=-2) + EXIT, 0),
        (EXIT + slot(0x06, imm=1 << 20), 1),
        (slot(0x05, offset=1) + slot(0x18) + slot(0) + EXIT, 0),
        (slot(0x85, src=1, imm=7) + EXIT, 0),
        (slot(0x18, 1, 4, imm=-9) + slot(0) + EXIT, 0),
    ],
)
def test_targets_outside_the_code(code: bytes, where: int) -> None:
    with pytest.raises(BadInstruction, match="target") as caught:
        check_targets(decode_slots(code))
    assert caught.value.slot == where


def test_what_an_instruction_says_of_itself() -> None:
    load = Instruction(op.LDX | op.MEM | op.H, 1, 2, -4)
    assert (load.kind, load.mode, load.size, load.slots) == (op.LDX, op.MEM, 2, 1)
    wide = Instruction(op.LD_IMM64, 1, op.PSEUDO_MAP_IDX_VALUE, 0, 3, (0xFFFFFFFC << 32) | 3)
    assert (wide.slots, wide.next_imm, wide.is_jump) == (2, -4, False)
    assert Instruction(op.GOTOL, imm=70000).target(1) == 70002
    assert Instruction(op.CALL_IMM, src=op.CALL_LOCAL, imm=-3).target(10) == 8
    assert Instruction(op.CALL_IMM, imm=5).target(10) == -1
    assert not Instruction(op.GOTO).falls_through and Instruction(op.MAY_GOTO).falls_through
