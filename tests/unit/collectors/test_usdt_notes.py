import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.collectors.uprobe.abi import operand_source, register_offset
from workbench.errors import MissingCapability
from workbench.frames.symbols.usdt import _parse_notes, parse_operands

X86, ARM = 62, 183


def one(text, machine=X86, **symbols):
    (found,) = parse_operands(text, machine, symbols.get)
    return (
        found.kind,
        found.size,
        found.signed,
        found.base,
        found.index,
        found.shift,
        found.offset,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-4@%eax", ("register", 4, True, "ax", "", 0, 0)),
        ("8@%r13", ("register", 8, False, "r13", "", 0, 0)),
        ("1@%r9b", ("register", 1, False, "r9", "", 0, 0)),
        ("2@%di", ("register", 2, False, "di", "", 0, 0)),
        ("8@-16(%rbp)", ("memory", 8, False, "bp", "", 0, -16)),
        ("-1@(%rsi,%rax)", ("memory", 1, True, "si", "ax", 0, 0)),
        ("4@8(%rdx,%rcx,4)", ("memory", 4, False, "dx", "cx", 2, 8)),
        ("4@$5", ("constant", 4, False, "", "", 0, 5)),
        ("-8@$-1", ("constant", 8, True, "", "", 0, -1)),
        ("8@counter(%rip)", ("memory", 8, False, "ip", "", 0, 0x4000)),
        ("8@counter+16(%rip)", ("memory", 8, False, "ip", "", 0, 0x4010)),
    ],
)
def test_x86_operands(text, expected):
    assert one(text, counter=0x4000) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8@x0", ("register", 8, False, "x0", "", 0, 0)),
        ("-4@w12", ("register", 4, True, "x12", "", 0, 0)),
        ("-4@[sp, 60]", ("memory", 4, True, "sp", "", 0, 60)),
        ("8@[x1]", ("memory", 8, False, "x1", "", 0, 0)),
        ("8@[x1, x2, lsl 3]", ("memory", 8, False, "x1", "x2", 3, 0)),
        ("-4@5", ("constant", 4, True, "", "", 0, 5)),
    ],
)
def test_aarch64_operands(text, expected):
    assert one(text, ARM) == expected


def test_several_operands_with_spaces_inside():
    found = parse_operands("-4@[sp, 60] 8@x0  8@7", ARM)
    assert [operand.kind for operand in found] == ["memory", "register", "constant"]


@pytest.mark.parametrize(
    "text", ["4f@%xmm0", "8@%ah", "8@%cr0", "8@lost(%rip)", "3@%rax", "8@4(%rax,%rbx,3)", "8@("]
)
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(MissingCapability):
        parse_operands(text, X86)


@given(st.text(max_size=30), st.sampled_from([X86, ARM]))
def test_any_description_parses_or_is_refused(text, machine):
    with contextlib.suppress(MissingCapability):
        parse_operands(text, machine)


@given(st.binary(max_size=200))
def test_damaged_notes_do_no_harm(data):
    _parse_notes(data, 0, X86)


def test_addresses_move_with_the_base_section():
    body = struct.pack("<QQQ", 0x1000, 0x2000, 0x3000) + b"app\0tick\0-4@%eax\0"
    note = struct.pack("<III", 8, len(body), 3) + b"stapsdt\0" + body
    note += b"\0" * (-len(body) % 4)
    (mark,) = _parse_notes(note * 1, 0x2400, X86)
    assert (mark.provider, mark.name, mark.address, mark.semaphore) == (
        "app",
        "tick",
        0x1400,
        0x3400,
    )
    assert [m.name for m in _parse_notes(note + note, 0, X86)] == ["tick", "tick"]


def test_relative_operands_count_from_the_mark():
    (operand,) = parse_operands("8@counter(%rip)", X86, lambda name: 0x4000)
    source = operand_source(operand, 0x1100, machine="x86_64")
    assert source.offset == 0x4000 - 0x1100 and source.base == register_offset("ip", "x86_64")
    assert len(source.pack()) == 16
