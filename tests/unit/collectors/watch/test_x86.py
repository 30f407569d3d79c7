"""The accessing instruction and what it does, from real machine code."""

from __future__ import annotations

import itertools
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from x86_cases import CASES, HARMLESS

from workbench.collectors.watch import x86
from workbench.collectors.watch.operands import ACCESSES, READ, UNKNOWN, WRITE

pytestmark = [
    pytest.mark.needs("C compiler"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="assembles x86-64 code"),
]
TARGET = 0x7000_0000


def assemble(lines: list[str], folder: Path) -> tuple[bytes, list[int]]:
    """Machine code of a function, and where each line of it begins (and the end)."""
    source = folder / "code.s"
    labels = "".join(f"L{i}:\n{line}\n" for i, line in enumerate([*lines, "nop"]))
    symbols = "".join(f".globl L{i}\n" for i in range(len(lines) + 1))
    source.write_text(f"{symbols}.set target, 0x1000\n.text\n{labels}")
    subprocess.run(["as", "-o", folder / "code.o", source], check=True)
    subprocess.run(
        ["objcopy", "-O", "binary", "-j", ".text", folder / "code.o", folder / "code.bin"],
        check=True,
    )
    listing = subprocess.run(["nm", folder / "code.o"], check=True, capture_output=True, text=True)
    places = {
        w[2]: int(w[0], 16) for w in map(str.split, listing.stdout.splitlines()) if len(w) == 3
    }
    return (folder / "code.bin").read_bytes(), [places[f"L{i}"] for i in range(len(lines) + 1)]


@pytest.fixture(scope="module")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes, str]]:
    """(assembly, machine code, access) of every case, one instruction each."""
    if not shutil.which("as"):
        pytest.skip("needs an assembler")
    lines = [text.split(";")[0].replace("target(%rip)", "64(%rip)") for text, _, _ in CASES]
    code, starts = assemble(lines, tmp_path_factory.mktemp("x86"))
    return [
        (line, code[a:b], case[1])
        for line, a, b, case in zip(lines, starts, starts[1:], CASES, strict=False)
    ]


def decode_one(code: bytes):
    return next(x86._machine().disasm(code, 0x1000, 1))


def test_every_case_is_classified(instructions: list[tuple[str, bytes, str]]) -> None:
    for text, code, access in instructions:
        if text.startswith("push"):
            continue  # reads its operand, writes the stack
        found = x86.operands(decode_one(code))
        kinds = 0
        for one in found:
            kinds |= one.access
        assert ACCESSES[kinds] == access, text


def test_push_reads_its_operand_and_writes_the_stack(tmp_path: Path) -> None:
    code, _ = assemble(["pushq 8(%rdi)"], tmp_path)
    kinds = sorted((one.access, one.base) for one in x86.operands(decode_one(code)))
    assert kinds == [(READ, x86.REGISTERS.index("rdi")), (WRITE, x86.REGISTERS.index("rsp"))]


@pytest.mark.parametrize("text", [*HARMLESS, "call *(%rdi)", "jmp *(%rdi)", "ret"])
def test_no_operand_where_no_trap_follows(text: str, tmp_path: Path) -> None:
    code, _ = assemble([text], tmp_path)
    assert x86.operands(decode_one(code)) == ()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_decoding_backwards_finds_the_last_instruction(
    instructions: list[tuple[str, bytes, str]], data: st.DataObject
) -> None:
    """GIVEN any sequence of instructions WHEN the stop is after one of them THEN that one comes first."""
    sequence = data.draw(st.lists(st.sampled_from(instructions), min_size=1, max_size=40))
    code = b"".join(one[1] for one in sequence)
    following = data.draw(st.binary(min_size=16, max_size=16))
    found = x86.candidates(code + following, len(code), 0)
    first = found[0]
    assert first.synced and first.back == len(sequence[-1][1]), sequence[-1][0]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 220), st.none() | st.integers(-5, 220))
def test_any_bytes_are_survived(code: bytes, ip: int, start: int | None) -> None:
    for one in x86.candidates(code, min(ip, len(code)), start):
        assert 0 <= one.back <= 15 and one.operands


def registers(**values: int) -> np.ndarray:
    row = np.zeros((1, len(x86.REGISTERS)), np.uint64)
    for name, value in values.items():
        row[0, x86.REGISTERS.index(name)] = value
    return row


def touched(code: bytes, address: int, **values: int) -> list[bool]:
    columns = registers(rip=0x1000 + len(code), **values)
    where, size = np.array([address], np.uint64), np.array([8], np.uint64)
    return [bool(o.touches(columns, where, size)[0]) for o in x86.operands(decode_one(code))]


def test_addresses_are_computed_from_registers_after_the_access(tmp_path: Path) -> None:
    lines = [
        "movq %rax, 8(%rdi,%rcx,4)",
        "stosq",
        "movq %rax, 0x50(%rip)",
        "movl %eax, (%edi)",
        "popq (%rdi)",
    ]
    code, starts = assemble(lines, tmp_path)
    parts = [code[a:b] for a, b in itertools.pairwise(starts)]
    assert touched(parts[0], TARGET, rdi=TARGET - 16, rcx=2) == [True]
    assert touched(parts[0], TARGET, rdi=TARGET - 16, rcx=4) == [False]
    assert touched(parts[1], TARGET, rdi=TARGET + 8) == [True]
    assert touched(parts[1], TARGET, rdi=TARGET - 8, flags=1 << 10) == [
        True
    ]  # direction flag: down
    assert touched(parts[1], TARGET, rdi=TARGET) == [False]
    assert touched(parts[2], 0x1000 + len(parts[2]) + 0x50) == [True]
    assert touched(parts[3], TARGET, rdi=TARGET | 0xABCD_0000_0000_0000) == [True]
    assert touched(parts[4], TARGET, rdi=TARGET, rsp=8) == [False, True]


def test_an_overwritten_address_register_proves_nothing(tmp_path: Path) -> None:
    code, starts = assemble(["movq (%rax), %rax", "movq %fs:16, %rdx", "lodsq"], tmp_path)
    parts = [code[a:b] for a, b in itertools.pairwise(starts)]
    assert [x86.operands(decode_one(p))[0].known for p in parts] == [False, False, True]


def test_a_repeated_string_instruction_is_where_it_stopped(tmp_path: Path) -> None:
    code, starts = assemble(["movq %rax, (%rdx)", "rep stosq"], tmp_path)
    found = x86.candidates(code, starts[1], 0)
    assert [one.back for one in found[:2]] == [3, 0]
    assert found[1].operands[0].access == WRITE != UNKNOWN
