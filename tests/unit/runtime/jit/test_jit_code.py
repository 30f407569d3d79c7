"""Blobs: no relocations, no vector registers where none were asked for, never writable and executable."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import capstone
import pytest
from jit_runs import ENTRY

from workbench.errors import MissingCapability, NotPermitted
from workbench.objects.linked import LinkedMap, LinkedProgram
from workbench.runtime.isa.assembler import assemble
from workbench.runtime.jit import code as mapping
from workbench.runtime.jit import compile_program, load
from workbench.runtime.jit.flatten import Unresolved, flatten
from workbench.runtime.jit.llvm import host, object_code
from workbench.runtime.jit.raw import make_run
from workbench.runtime.jit.unit import Options

SUM = """
mov %r0, 0
mov %r3, 0
ldxb %r4, [%r1]
add %r0, %r4
add %r1, 1
add %r3, 1
jlt %r3, 64, -5
exit
"""
TABLE = LinkedMap(
    ".rodata", 2, 4, 64, 1, initial=struct.pack("<16I", *range(100, 116)), read_only=True
)


def program(text):
    return LinkedProgram("p", "syscall", "syscall", assemble(text), ())


def compiled(text=SUM, **options):
    return compile_program(program(text), options.pop("maps", ()), cached=False, **options)


def mapped(address):
    """Protection of the mapping at `address`, as /proc says."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(x, 16) for x in line.split()[0].split("-"))
        if begin <= address < end:
            return line.split()[1]
    return ""


def run(code, ctx):
    return ENTRY(code.address)(ctx, ctypes.addressof(make_run()))


@pytest.mark.parametrize("tier", ["quick", "optimised"])
def test_the_same_bytes_run_at_two_addresses_and_in_another_process(tier):
    blob = compiled(tier=tier, vectors=tier == "optimised")
    memory = (ctypes.c_uint8 * 64)(*range(64))
    first, second = load(blob), load(blob)
    assert first.address != second.address
    assert run(first, ctypes.addressof(memory)) == run(second, ctypes.addressof(memory)) == 2016
    assert mapped(first.address) == "r-xp"
    first.close()
    second.close()
    assert mapped(second.base) != "r-xp"


def test_no_mapping_is_ever_writable_and_executable(monkeypatch):
    seen = []
    real = mapping._libc()

    class Watched:
        def mmap(self, *arguments):
            seen.append(arguments[2])
            return real.mmap(*arguments)

        def mprotect(self, *arguments):
            seen.append(arguments[2])
            return real.mprotect(*arguments)

        munmap = real.munmap

    monkeypatch.setattr(mapping, "_libc", Watched)
    blob = compiled()
    load(blob).close()
    monkeypatch.setattr(mapping, "_from_file", lambda *_: 0)
    fallback = load(blob)
    memory = (ctypes.c_uint8 * 64)(*[1] * 64)
    assert run(fallback, ctypes.addressof(memory)) == 64
    assert mapped(fallback.address) == "r-xp"
    fallback.close()
    assert seen
    assert all(protection & 6 != 6 for protection in seen)


def test_where_executable_memory_is_forbidden_the_error_says_so(monkeypatch):
    monkeypatch.setattr(mapping, "_from_file", lambda *_: 0)
    monkeypatch.setattr(mapping, "_from_memory", lambda *_: 0)
    with pytest.raises(NotPermitted, match="executable memory"):
        load(compiled())


def test_code_for_another_machine_is_not_loaded():
    other = "aarch64" if host() == "x86_64" else "x86_64"
    with pytest.raises(MissingCapability, match=f"this code is for {other}"):
        load(compiled(machine=other))


@pytest.mark.parametrize("tier", ["quick", "optimised"])
def test_code_for_probes_touches_integer_registers_only(tier):
    blob = compiled(tier=tier, machine="x86_64")
    names = _operands(blob, capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    assert names
    assert not [text for text in names if re.search(r"\b([xyz]mm|mm|st|k)\d", text)]
    if tier == "optimised" and host() == "x86_64":
        fast = compiled(tier=tier, vectors=True)
        names = _operands(fast, capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        assert [text for text in names if re.search(r"\b[xyz]mm\d", text)]


def _operands(blob, architecture, mode):
    decoder = capstone.Cs(architecture, mode)
    begin = blob.symbols[0].offset
    end = max(symbol.offset + symbol.size for symbol in blob.symbols)
    return [one.op_str for one in decoder.disasm(blob.code[begin:end], begin)]


def test_a_table_of_constants_becomes_part_of_the_code():
    text = f"ldxb %r2, [%r1]\nand %r2, 15\nlsh %r2, 2\nlddw %r3, {0:#x}\nadd %r3, %r2\nldxw %r0, [%r3]\nexit"
    code = bytearray(assemble(text))
    slot = 3
    code[8 * slot + 1] |= 6 << 4  # BPF_PSEUDO_MAP_IDX_VALUE of map 0
    one = replace(program("exit"), code=bytes(code))
    for tier in ("quick", "optimised"):
        blob = compile_program(one, [TABLE], tier=tier, cached=False)
        loaded = load(blob)
        for index in (0, 7, 15):
            value = ctypes.c_uint8(index)
            assert run(loaded, ctypes.addressof(value)) == 100 + index
        loaded.close()


@pytest.mark.parametrize("tier", ["quick", "optimised"])
def test_aarch64_objects_flatten(tier):
    blob = compiled(tier=tier, machine="aarch64")
    assert blob.machine == "aarch64"
    text = _operands(blob, capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    assert len(text) > 5
    assert not [one for one in text if re.search(r"\b[qdvs]\d+\b", one)]


def _object(text):
    return object_code(text, Options(machine=host()))


def test_a_call_to_a_library_is_refused_by_name():
    text = "declare i64 @getpid()\ndefine i64 @program(ptr %c, ptr %r) { %x = call i64 @getpid() ret i64 %x }"
    with pytest.raises(Unresolved, match="'getpid'") as raised:
        flatten(_object(text))
    assert raised.value.name == "getpid"


def test_a_variable_is_refused():
    text = "@x = global i64 5\ndefine i64 @program(ptr %c, ptr %r) { %x = load i64, ptr @x ret i64 %x }"
    with pytest.raises(MissingCapability):
        flatten(_object(text))


def test_a_table_of_addresses_is_refused():
    text = """
@t = internal constant [2 x ptr] [ptr @program, ptr @program]
define i64 @program(ptr %c, ptr %r) {
  %i = ptrtoint ptr %c to i64
  %p = getelementptr [2 x ptr], ptr @t, i64 0, i64 %i
  %v = load i64, ptr %p
  ret i64 %v
}"""
    with pytest.raises(MissingCapability):
        flatten(_object(text))


def test_symbols_name_the_functions_of_a_program():
    text = "call local inner\nexit\ninner:\nmov %r0, 3\nexit"
    blob = compiled(text)
    assert {symbol.name for symbol in blob.symbols} == {"program", "function_2"}
    assert all(0 <= s.offset < s.offset + s.size <= len(blob.code) for s in blob.symbols)


def test_memory_that_a_fork_compiles_in():
    """A child of fork compiles by itself, whatever the parent's thread was doing."""
    compiled()
    pid = os.fork()
    if not pid:
        try:
            compiled("mov %r0, 9\nexit")
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
