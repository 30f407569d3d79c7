"""Stack that compiled code takes, and that code for targets takes little of it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from workbench.objects.linked import LinkedProgram
from workbench.runtime.isa import assemble
from workbench.runtime.jit import Blob, ProbeCode, Symbol, compile_program
from workbench.runtime.jit.frames import stack_bytes
from workbench.runtime.jit.probe_code import STACK


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (b"\xc3", 8),
        (b"\x53\xc3", 16),
        (b"\x41\x57\x41\x56\x53\x48\x81\xec" + struct.pack("<I", 0x208) + b"\xc3", 8 + 24 + 0x208),
        (b"\x55\x48\x89\xe5\x48\x83\xec\x20\xc3", 8 + 8 + 0x20),
        (b"\x50\xe8\0\0\0\0\x58\xc3", 16),
    ],
)
def test_prologues(code: bytes, expected: int) -> None:
    blob = Blob(code, 0, "x86_64", "quick", False, (Symbol("program", 0, len(code)),))
    assert stack_bytes(blob) == expected
    twice = (Symbol("program", 0, len(code)), Symbol("other", len(code), len(code)))
    assert stack_bytes(Blob(2 * code, 0, "x86_64", "quick", False, twice)) == 2 * expected


def _program(values: int) -> LinkedProgram:
    """One that keeps many values alive at once."""
    lines = ["r6 = r1", "r0 = 0"]
    for number in range(values):
        lines += [
            f"r2 = *(u64 *)(r6 + {8 * (number % 20)})",
            "r0 ^= r2",
            "if r0 > 7 goto +1",
            "r0 += 3",
        ]
    return LinkedProgram("many", "uprobe", "kprobe", assemble("\n".join([*lines, "exit"])), ())


def test_code_that_would_take_much_stack_is_optimised_from_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    small, large = _program(10), _program(1500)
    quick = compile_program(large, (), tier="quick")
    assert stack_bytes(quick) > STACK > stack_bytes(compile_program(small, (), tier="quick"))
    assert ProbeCode(small, (), None).tier == "quick"
    made = ProbeCode(large, (), None)
    assert made.tier == "optimised"
    assert stack_bytes(made.blob) < STACK
    made.wait(60)
