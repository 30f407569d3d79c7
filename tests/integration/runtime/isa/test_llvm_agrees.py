"""LLVM's assembler makes the same bytes of our text, and our disassembler reads every object that clang makes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from bpf_instructions import instructions
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from workbench.objects.build import built_object
from workbench.objects.compile import clang
from workbench.objects.elf import SectionFile
from workbench.objects.link import link
from workbench.objects.model import open as open_object
from workbench.runtime.isa import Instruction, assemble, decode, disassemble, encode
from workbench.runtime.isa import opcodes as op

OBJECTS = sorted(
    path.name.partition(".")[0]
    for path in built_object("x").parent.glob("*.bpf.o")
    if not open_object(path).struct_ops  # schedulers call into the kernel
)


def llvm_has(one: Instruction) -> bool:
    """Forms that LLVM's text has as well: no map references, kernel calls, calls by distance or newer atomics."""
    if one.opcode == op.LD_IMM64:
        return one.src == 0
    if one.opcode == op.CALL_IMM:
        return False
    if one.kind == op.LD:
        return one.mode == op.ABS or one.imm == 0
    return not (one.mode == op.ATOMIC and one.kind == op.STX and one.imm in (op.LOAD_ACQ, op.STORE_REL))


@pytest.mark.needs("clang")
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(made=st.lists(instructions().filter(llvm_has), min_size=60, max_size=80))
def test_llvm_assembles_our_text(tmp_path_factory: pytest.TempPathFactory, made: list[Instruction]) -> None:
    folder = tmp_path_factory.mktemp("llvm")
    text = [line.replace(" + 0x0]", "]") for line in disassemble(encode(made))]
    source, made_by_llvm = folder / "x.s", folder / "x.o"
    source.write_text("\n".join(text) + "\n")
    command = [clang(), "-target", "bpfel", "-mcpu=v4", "-c", str(source), "-o", str(made_by_llvm)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    section = SectionFile(made_by_llvm.read_bytes()).section(".text")
    assert section is not None
    assert disassemble(bytes(section.data)) == disassemble(encode(made))
    assert bytes(section.data) == encode(made)


@pytest.mark.needs("BTF")
@pytest.mark.parametrize("name", OBJECTS)
def test_linked_objects_survive_as_text(name: str) -> None:
    linked = link(open_object(Path(built_object(name))))
    maps = [one.name for one in linked.maps]
    for program in linked.programs.values():
        functions = {one.start: one.name for one in program.functions}
        lines, slot = [], 0
        for one, text in zip(
            decode(program.code), disassemble(program.code, maps=maps, functions=functions), strict=True
        ):
            if slot in functions:
                lines.append(f"{functions[slot]}:")
            lines.append(f"{slot:5}: {text}")
            slot += one.slots
        assert assemble("\n".join(lines), maps=maps) == program.code
