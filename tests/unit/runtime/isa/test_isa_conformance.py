"""Every instruction computes what RFC 9669 says, in the interpreter and in both tiers of the JIT."""

from __future__ import annotations

from pathlib import Path

import pytest
from bpf_conformance_cases import CASES

from workbench.errors import BadSpec
from workbench.runtime.isa import BadInstruction, assemble, decode, encode
from workbench.runtime.isa import opcodes as op
from workbench.runtime.isa.conformance import parse_case, read_cases
from workbench.runtime.isa.instruction import Instruction
from workbench.runtime.jit.raw import run_raw
from workbench.runtime.once import run_interpreted

# Calls of the outside, and packet loads: tested with what they call and read.
ELSEWHERE = {op.CALLX, *(op.LD | mode | size for mode in (op.ABS, op.IND) for size in (op.B, op.H, op.W))}


def test_every_instruction_in_the_interpreter() -> None:
    results = [run_interpreted(assemble(case.text), case.memory) for case in CASES]
    assert not wrong(results)


@pytest.mark.parametrize("tier", ["quick", "optimised"])
def test_every_instruction_compiled(tier: str) -> None:
    """One program that calls every case as a subprogram and leaves the results in its memory."""
    places = range(8 * len(CASES), (8 + 16) * len(CASES), 16)
    memory = bytearray(8 * len(CASES)) + b"".join(case.memory.ljust(16, b"\0") for case in CASES)
    bodies = [assemble(case.text) for case in CASES]
    at, main = 7 * len(CASES) + 3, ["mov %r6, %r1"]
    for number, (case, place, body) in enumerate(zip(CASES, places, bodies, strict=True)):
        begin = 1 + 7 * number
        main += [
            "mov %r1, %r6",
            f"add %r1, {place}",
            f"mov %r2, {len(case.memory)}",
            f"call local +{at - begin - 4}",
            "mov %r1, %r6",
            f"add %r1, {8 * number}",
            "stxdw [%r1], %r0",
        ]
        at += len(body) // 8
    code = assemble("\n".join([*main, "mov %r0, 0", "exit"]), check=False) + b"".join(bodies)
    run_raw(code, memory, tier)
    results = [int.from_bytes(memory[8 * n : 8 * n + 8], "little") for n in range(len(CASES))]
    assert not wrong(results)


def wrong(results: list[int]) -> list[str]:
    """What is not as defined."""
    return [
        f"{case.name}: {got:#x}, not {case.result:#x}"
        for case, got in zip(CASES, results, strict=True)
        if got != case.result
    ]


def valid_opcodes() -> set[int]:
    """Opcode bytes that some instruction has."""
    found = set()
    for opcode in range(256):
        for fields in ({}, {"imm": 16}, {"imm": op.LOAD_ACQ}):
            one = Instruction(opcode, **fields)
            try:
                found.update(made.opcode for made in decode(encode([one])))
            except BadInstruction:
                continue
    return found


def test_no_opcode_is_forgotten() -> None:
    covered = {one.opcode for case in CASES for one in decode(assemble(case.text))}
    assert valid_opcodes() - covered == ELSEWHERE


def test_a_file_of_the_public_suite() -> None:
    text = "# remark\n-- asm\nldxb %r0, [%r1+1] # second\nexit\n-- mem\n01 02\n03\n-- result\n0x2\n-- c\nint x;\n"
    case = parse_case(text, "x")
    assert case is not None and case.memory == b"\1\2\3" and case.result == 2
    assert run_interpreted(case.code, case.memory) == 2
    raw = parse_case("-- raw\n0x00000005000000b7\n149\n-- result\n5\n", "raw")
    assert raw is not None and run_interpreted(raw.code) == 5
    assert parse_case("-- asm\nexit\n", "no result") is None


@pytest.mark.parametrize(
    "text",
    ["-- nonsense\n", "-- raw\nzz\n-- result\n0\n", "-- asm\nexit\n-- mem\ngg\n-- result\n0\n"],
)
def test_a_damaged_file_of_the_suite(text: str) -> None:
    with pytest.raises(BadSpec):
        parse_case(text, "damaged")


def test_a_folder_without_tests(tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match="holds no tests"):
        read_cases(tmp_path)
