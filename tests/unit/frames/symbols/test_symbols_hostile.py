"""Damaged and hostile ELF files: an error of ours or an answer, never another exception and never a hang."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.errors import WorkbenchError
from workbench.frames.symbols.elf import ElfSymbols

pytestmark = [pytest.mark.needs("C compiler"), pytest.mark.filterwarnings("error")]

LIMIT = 256 << 20
_settings = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _exercise(content: bytes) -> None:
    try:
        symbols = ElfSymbols.open(content, path="hostile")
    except WorkbenchError as error:
        assert "hostile" in error.message
        return
    probes = np.array([0, 1, 0x1139, 2**47, 2**63, 2**64 - 1], np.uint64)
    found = symbols.find_address(probes)
    assert ((found >= -1) & (found < len(symbols))).all()
    symbols.offset_to_vaddr(probes)
    symbols.vaddr_to_offset(probes)
    symbols.find_name("main")
    symbols.match("m*")
    symbols.nearest("mein")
    for index in range(min(len(symbols), 8)):
        assert isinstance(symbols[index].demangled, str)


@_settings
@given(data=st.data())
def test_changed_bytes_of_the_headers(program: Path, data: st.DataObject) -> None:
    content = bytearray(program.read_bytes())
    sections = int.from_bytes(content[40:48], "little")
    places = st.one_of(
        st.integers(4, 63), st.integers(64, 64 + 13 * 56), st.integers(sections, len(content) - 9)
    )
    values = st.sampled_from(
        [
            b"\0",
            b"\xff",
            b"\xff" * 4,
            b"\xff" * 8,
            b"\0" * 8,
            b"\0\0\0\x80",
            b"\1",
            b"\xff\xff\xff\x7f",
            b"\x10\0\0\0",
        ]
    )
    for _ in range(data.draw(st.integers(1, 6))):
        at, value = data.draw(places), data.draw(values)
        content[at : at + len(value)] = value
    tracemalloc.start()
    try:
        _exercise(bytes(content))
        assert tracemalloc.get_traced_memory()[1] < LIMIT
    finally:
        tracemalloc.stop()


@_settings
@given(data=st.data())
def test_changed_bytes_of_the_symbol_table(program: Path, data: st.DataObject) -> None:
    content = bytearray(program.read_bytes())
    from workbench.frames.symbols.elffile import ElfFile

    with ElfFile(program) as elf:
        table = elf.section(".symtab")
        strings = elf.section(".strtab")
    assert table is not None and strings is not None
    for _ in range(data.draw(st.integers(1, 12))):
        where = data.draw(st.sampled_from([table, table, table, strings]))
        at = where.offset + data.draw(st.integers(0, where.size - 8))
        content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    _exercise(bytes(content))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1))
def test_any_prefix(program: Path, share: float) -> None:
    content = program.read_bytes()
    _exercise(content[: int(len(content) * share)])


@settings(max_examples=100, deadline=None)
@given(tail=st.binary(max_size=400))
def test_anything_after_a_valid_identification(tail: bytes) -> None:
    _exercise(b"\x7fELF\2\1\1" + tail)
