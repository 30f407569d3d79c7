"""Functions that no symbol names: exact ranges by .eh_frame, linkage stubs by what they call, hostile sections."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.errors import WorkbenchError
from workbench.frames.symbols.elf import ElfSymbols
from workbench.frames.symbols.elffile import ElfFile
from workbench.frames.symbols.functions import code_ranges, function_ranges
from workbench.frames.symbols.mappings import Mappings
from workbench.frames.symbols.plt import AARCH64, linkage_stubs
from workbench.frames.symbols.store import SymbolStore
from workbench.frames.symbols.symbolizer import Symbolizer

pytestmark = [pytest.mark.needs("C compiler"), pytest.mark.filterwarnings("error")]

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int numbers[64];
__attribute__((noinline)) static int first(int x) { return x * 3 + numbers[x & 63]; }
__attribute__((noinline)) static int second(int x) { for (int i = 0; i < x; i++) x += first(i); return x; }
__attribute__((noinline)) static int order(const void *a, const void *b) { return *(int *)a - *(int *)b; }
__attribute__((noinline)) int exported(int x) { if (x > 1000) { puts("large"); abort(); } return second(x); }
__asm__(".text\n.globl by_hand\nby_hand: nop\nnop\nret\n.size by_hand, 0\n"
        ".globl described\ndescribed:\n.cfi_startproc\nnop\nret\n.cfi_endproc\nnop\nnop\nnop\n");
int main(int argc, char **argv) {
    memset(numbers, argc, sizeof numbers);
    qsort(numbers, 64, 4, order);
    return exported(argc) + printf("%s", argv[0]);
}
"""
_FUNCTIONS = ("first", "second", "order", "exported", "main", "described")


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A program with symbols, and the same one stripped."""
    folder = tmp_path_factory.mktemp("functions")
    (folder / "source.c").write_text(SOURCE)
    whole, stripped = folder / "whole", folder / "stripped"
    flags = ["-O2", "-rdynamic", "-Wl,--build-id"]
    subprocess.run(["cc", *flags, "-o", whole, folder / "source.c"], check=True, timeout=60)
    subprocess.run(["strip", "-o", stripped, whole], check=True, timeout=60)
    return whole, stripped


def _ranges(path: Path) -> list[tuple[int, int]]:
    with ElfFile(path) as elf:
        starts, ends = function_ranges(elf)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _names(symbols: ElfSymbols, vaddrs: list[int]) -> list[str]:
    """As the symbolizer names them, through a mapping of the whole file at address 0."""
    addresses = np.array(vaddrs, np.uint64)
    index = symbols.find_address(addresses)
    code = symbols.find_code(addresses)
    return [
        symbols.name(at)
        if at >= 0
        else symbols.code_names(code[i : i + 1], "m")[0]
        if code[i] >= 0
        else ""
        for i, at in enumerate(index.tolist())
    ]


def test_ranges_are_those_of_the_symbols(pair: tuple[Path, Path]) -> None:
    whole, stripped = pair
    symbols = ElfSymbols.open(whole)
    ranges = dict(_ranges(stripped))
    for name in _FUNCTIONS[:-1]:
        (one,) = symbols.find_name(name)
        assert ranges[one.address] == one.address + one.size, name
    cold = symbols.match("exported.cold*")
    assert all(ranges[one.address] == one.address + one.size for one in cold)


def test_every_byte_of_a_static_function_has_its_name(pair: tuple[Path, Path]) -> None:
    whole, stripped = pair
    known, symbols = ElfSymbols.open(whole), ElfSymbols.open(stripped)
    for name in ("first", "second", "order"):
        (one,) = known.find_name(name)
        inside = list(range(one.address, one.address + one.size))
        assert set(_names(symbols, inside)) == {f"m:{one.address:#x}"}, name
        assert _names(known, inside) == [name] * len(inside)
    # An exported name is preferred, and no name reaches the padding between functions.
    (exported,) = known.find_name("exported")
    assert _names(symbols, [exported.address + exported.size - 1]) == ["exported"]
    ends = {end for _, end in _ranges(stripped)} - {start for start, _ in _ranges(stripped)}
    (second,) = known.find_name("second")
    assert second.address + second.size in ends
    assert _names(symbols, [second.address + second.size]) == [""]


def test_symbols_without_size_end_with_their_function(pair: tuple[Path, Path]) -> None:
    for path in pair:
        symbols = ElfSymbols.open(path)
        (by_hand,) = symbols.find_name("by_hand")
        (described,) = symbols.find_name("described")
        assert by_hand.address + by_hand.size == described.address
        # nop; ret of described, and the bytes after it belong to nobody
        assert described.size == (2 if _machine(path) == 62 else 8)
        end = described.address + described.size
        assert _names(symbols, [end - 1, end]) == ["described", ""]


def _machine(path: Path) -> int:
    with ElfFile(path) as elf:
        return int(elf.machine)


@pytest.mark.parametrize("flags", [[], ["-Wl,-z,now"], ["-no-pie"], ["-fcf-protection=full"]])
def test_linkage_stubs_have_the_name_of_what_they_call(tmp_path: Path, flags: list[str]) -> None:
    if _machine(Path("/bin/sh")) != 62 and "-fcf-protection=full" in flags:
        flags = ["-mbranch-protection=standard"]
    (tmp_path / "source.c").write_text(SOURCE)
    program = tmp_path / "program"
    subprocess.run(
        ["cc", "-O2", *flags, "-s", "-o", program, tmp_path / "source.c"], check=True, timeout=60
    )
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", program], check=True, capture_output=True, text=True
    ).stdout
    wanted = {
        int(address, 16): name
        for address, name in re.findall(r"^([0-9a-f]+) <(\w+)@plt>:", listing, re.MULTILINE)
    }
    symbols = ElfSymbols.open(program)
    assert {"puts", "printf", "qsort", "abort"} <= set(wanted.values())
    for address, name in wanted.items():
        assert _names(symbols, [address, address + 4, address + 7]) == [f"{name}@plt"] * 3
    # The stubs are no symbols: a probe on puts must not land on the call to it.
    assert not symbols.find_name("puts") and not symbols.match("puts*")


def test_first_stub_of_a_lazy_table(tmp_path: Path) -> None:
    (tmp_path / "source.c").write_text(SOURCE)
    program = tmp_path / "program"
    flags = ["-O2", "-Wl,-z,lazy", "-s"]
    subprocess.run(["cc", *flags, "-o", program, tmp_path / "source.c"], check=True, timeout=60)
    with ElfFile(program) as elf:
        table = elf.section(".plt")
    assert table is not None
    assert _names(ElfSymbols.open(program), [table.address]) == ["m:plt"]


def _aarch64_table(*, guarded: bool) -> bytes:
    """An ELF file of aarch64 with a linkage table of one stub for `puts`, by the layout of its ABI."""
    plt, got = 0x10000, 0x2FF8
    target = got - (plt & ~0xFFF)
    pages = (got >> 12) - (plt >> 12)
    adrp = 0x90000010 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    ldr = 0xF9400211 | (target & 0xFFF) >> 3 << 10
    stub = [adrp, ldr, 0x91000210, 0xD61F0220]
    code = struct.pack("<8I", *([0xD503201F] * 8))
    code += struct.pack("<5I", 0xD503245F, *stub) if guarded else struct.pack("<4I", *stub)
    strings = b"\0puts\0"
    dynsym = bytes(24) + struct.pack("<IBBHQQ", 1, 0x12, 0, 0, 0, 0)
    rela = struct.pack("<QIIq", got, 1026, 1, 0)
    names = b"\0.plt\0.dynsym\0.dynstr\0.rela.plt\0.shstrtab\0"
    parts = [code, dynsym, strings, rela, names]
    offsets, at = [], 64
    for part in parts:
        offsets.append(at)
        at += len(part)
    rows = [
        (names.index(b".plt\0"), 1, 6, plt, 0),
        (names.index(b".dynsym"), 11, 2, 0, 3),
        (names.index(b".dynstr"), 3, 2, 0, 0),
        (names.index(b".rela.plt"), 4, 2, 0, 2),
        (names.index(b".shstrtab"), 3, 0, 0, 0),
    ]
    headers = bytes(64)
    for (name, kind, flags, address, link), offset, part in zip(rows, offsets, parts, strict=True):
        headers += struct.pack(
            "<IIQQQQIIQQ", name, kind, flags, address, offset, len(part), link, 0, 8, 0
        )
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, AARCH64, 1, 0, 0, at, 0, 64, 0, 0, 64, 6, 5)
    return head + b"".join(parts) + headers


@pytest.mark.parametrize("guarded", [False, True])
def test_linkage_stubs_of_aarch64(guarded: bool) -> None:
    with ElfFile(_aarch64_table(guarded=guarded), "made") as elf:
        starts, ends, names = linkage_stubs(elf)
    size = 20 if guarded else 16
    assert list(zip(starts.tolist(), ends.tolist(), names, strict=True)) == [
        (0x10000, 0x10020, b""),
        (0x10020, 0x10020 + size, b"puts"),
    ]


def test_a_program_without_a_search_table_is_read_record_by_record(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    _, stripped = pair
    content = bytearray(stripped.read_bytes())
    with ElfFile(stripped) as elf:
        for i, row in enumerate(elf.segments):
            if int(row["type"]) == 0x6474E550:
                content[64 + 56 * i : 68 + 56 * i] = b"\0\0\0\0"  # PT_NULL
    with ElfFile(bytes(content), "changed") as elf:
        starts, ends = function_ranges(elf)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == _ranges(stripped)


def test_debug_file_has_no_code(pair: tuple[Path, Path], tmp_path: Path) -> None:
    debug = tmp_path / "x.debug"
    subprocess.run(["objcopy", "--only-keep-debug", pair[0], debug], check=True)
    symbols = ElfSymbols.open(debug)
    assert symbols.find_name("first")


def test_ranges_come_back_from_the_cache(pair: tuple[Path, Path], tmp_path: Path) -> None:
    _, stripped = pair
    built = SymbolStore(tmp_path).get(str(stripped))
    again = SymbolStore(tmp_path).get(str(stripped))
    assert built is not None and again is not None and again is not built
    every = np.arange(len(built.columns["code_start"]))
    assert len(every) and again.code_names(every, "x") == built.code_names(every, "x")


def test_one_function_is_one_code_in_all_processes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    whole, stripped = pair
    (second,) = ElfSymbols.open(whole).find_name("second")
    (first,) = ElfSymbols.open(whole).find_name("first")
    with ElfFile(stripped) as elf:
        (code,) = [row for row in elf.loads if int(row["flags"]) & 1]
    low, offset = int(code["vaddr"]), int(code["offset"])
    size, bases = -(-int(code["filesz"]) // 4096) * 4096, (0x500000, 0x7F0000000000)
    mappings = Mappings.from_columns(
        {
            "time": [0, 0],
            "pid": [1, 2],
            "start": [base + low for base in bases],
            "end": [base + low + size for base in bases],
            "offset": [offset] * 2,
            "path": [str(stripped)] * 2,
            "build_id": [ElfSymbols.open(stripped).build_id] * 2,
        }
    )
    where = [second.address, second.address + 2, first.address, second.address + second.size - 1]
    pids = np.repeat(np.array([1, 2], np.int32), len(where))
    addresses = np.array([base + vaddr for base in bases for vaddr in where], np.uint64)
    with Symbolizer(mappings, lines=False, store=SymbolStore(tmp_path)) as symbolizer:
        resolved = symbolizer.resolve(pids, addresses)
        functions = symbolizer.functions(pids, addresses)
    a, b = f"stripped:{second.address:#x}", f"stripped:{first.address:#x}"
    assert resolved.function.to_pylist() == [a, a, b, a] * 2 == functions.to_pylist()
    assert sorted(resolved.function.dictionary.to_pylist()) == sorted({a, b})


# Hostile sections --------------------------------------------------------------------------------------------------

_settings = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_VALUES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x1b\x03\x3b"]),
)


def _check(content: bytes) -> None:
    with ElfFile(content, "hostile") as elf:
        code = code_ranges(elf)
    assert (code.starts <= code.ends).all()
    assert (code.ends[:-1] <= code.starts[1:]).all()
    symbols = ElfSymbols.open(content, path="hostile")
    probes = np.concatenate([code.starts, code.ends, np.array([0, 1, 2**63, 2**64 - 1], np.uint64)])
    found = symbols.find_code(probes)
    assert ((found >= -1) & (found < len(symbols.columns["code_start"]))).all()
    symbols.code_names(np.unique(found[found >= 0]), "m")


@_settings
@given(data=st.data())
def test_changed_bytes_of_the_sections_read(pair: tuple[Path, Path], data: st.DataObject) -> None:
    content = bytearray(pair[1].read_bytes())
    with ElfFile(pair[1]) as elf:
        names = (".eh_frame_hdr", ".eh_frame", ".plt", ".rela.plt", ".dynsym", ".dynstr")
        sections = [one for name in names if (one := elf.section(name)) is not None]
    assert len(sections) == len(names)
    for _ in range(data.draw(st.integers(1, 12))):
        where = data.draw(st.sampled_from([sections[0], sections[1], *sections]))
        # The first bytes hold what all else is read by.
        inside = st.one_of(st.integers(0, 12), st.integers(0, where.size - 1))
        at, value = where.offset + data.draw(inside), data.draw(_VALUES)
        content[at : at + len(value)] = value
    _check(bytes(content))


@_settings
@given(data=st.data())
def test_changed_headers(pair: tuple[Path, Path], data: st.DataObject) -> None:
    content = bytearray(pair[1].read_bytes())
    sections = int.from_bytes(content[40:48], "little")
    places = st.one_of(st.integers(64, 64 + 13 * 56), st.integers(sections, len(content) - 9))
    for _ in range(data.draw(st.integers(1, 6))):
        at, value = data.draw(places), data.draw(_VALUES)
        content[at : at + len(value)] = value
    try:
        _check(bytes(content))
    except WorkbenchError as error:
        assert "hostile" in error.message
