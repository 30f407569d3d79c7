"""Symbol tables of real ELF files, checked against binutils."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from workbench.errors import UnknownSymbol, WorkbenchError
from workbench.frames.symbols.elf import ElfSymbols
from workbench.frames.symbols.elffile import BadElf, ElfFile, build_id_of

pytestmark = pytest.mark.needs("C compiler")


def _nm(path: Path, *flags: str) -> list[tuple[int, str, str]]:
    out = subprocess.run(
        ["nm", *flags, str(path)], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in out.splitlines()]
    return [(int(row[0], 16), row[1], row[2].split("@")[0]) for row in rows if len(row) == 3]


def test_all_functions_and_objects_of_nm_are_there(program: Path) -> None:
    symbols = ElfSymbols.open(program)
    ours = {(s.name, s.address) for s in symbols.match("*")}
    theirs = {
        (name, address)
        for address, kind, name in _nm(program)
        if kind in "tTwWdDbBrRiV" and name != "per_thread"
    }
    assert {pair for pair in theirs if pair not in ours} == set()
    assert {name for name, _ in ours} >= {
        "hidden",
        "shown",
        "weakling",
        "initialised",
        "zeroed",
        "chosen",
        "by_hand",
    }


def test_symbols_of_a_shared_library_equal_nm(program: Path, tmp_path: Path) -> None:
    library, source = tmp_path / "library.so", program.with_suffix(".c")
    subprocess.run(["cc", "-shared", "-fPIC", "-s", "-o", str(library), str(source)], check=True)
    theirs = {(name, address) for address, kind, name in _nm(library, "-D") if kind in "TWi"}
    assert {name for name, _ in theirs} >= {"shown", "weakling", "chosen", "by_hand"}
    found = ElfSymbols.open(library, debug=False).match("*", kind="function")
    assert {(s.name, s.address) for s in found} == theirs


def test_symbol_details(program: Path) -> None:
    symbols = ElfSymbols.open(program)
    (hidden,), (shown,), (weak,) = (
        symbols.find_name(name) for name in ("hidden", "shown", "weakling")
    )
    assert (hidden.binding, shown.binding, weak.binding) == ("local", "global", "weak")
    assert shown.kind == "function" and shown.size > 0
    (data,) = symbols.find_name("initialised")
    assert (data.kind, data.size) == ("object", 16)
    assert symbols.find_name("initialised", kind="function") == []
    assert symbols.find_name("per_thread") == []  # an offset into thread storage, not an address
    assert symbols.position_independent


def test_symbols_without_size_reach_to_the_next(program: Path) -> None:
    symbols = ElfSymbols.open(program)
    (by_hand,), (after,) = symbols.find_name("by_hand"), symbols.find_name("after_hand")
    assert by_hand.address + by_hand.size == after.address
    (index,) = symbols.find_address(np.array([by_hand.address + 2], np.uint64), "function")
    assert symbols[index].name == "by_hand"


def test_every_byte_of_a_function_finds_it_and_the_byte_before_does_not(program: Path) -> None:
    symbols = ElfSymbols.open(program)
    (shown,) = symbols.find_name("shown")
    addresses = np.arange(shown.address - 1, shown.address + shown.size + 1, dtype=np.uint64)
    names = [symbols[i].name if i >= 0 else "" for i in symbols.find_address(addresses)]
    assert set(names[1:-1]) == {"shown"}
    assert names[0] != "shown" and names[-1] != "shown"


def test_offsets_and_addresses_convert_both_ways(program: Path) -> None:
    symbols = ElfSymbols.open(program)
    (data,), (bss,), (shown,) = (
        symbols.find_name(name) for name in ("initialised", "zeroed", "shown")
    )
    vaddrs = np.array([data.address, shown.address, bss.address], np.uint64)
    offsets, found = symbols.vaddr_to_offset(vaddrs)
    assert found.tolist() == [True, True, False]  # .bss has no bytes in the file
    content = program.read_bytes()[int(offsets[0]) : int(offsets[0]) + 16]
    assert np.frombuffer(content, np.int32).tolist() == [1, 2, 3, 4]
    back, inside = symbols.offset_to_vaddr(offsets[:2])
    assert inside.all() and back.tolist() == vaddrs[:2].tolist()
    assert not symbols.offset_to_vaddr(np.array([1 << 40], np.uint64))[1].any()


def test_nearest_names_suggest_the_typo(program: Path) -> None:
    symbols = ElfSymbols.open(program)
    assert symbols.nearest("weaklign")[0] == "weakling"
    assert symbols.nearest("hiden", n=1) == ["hidden"]
    assert "initialised" in symbols.nearest("initialized", kind="object")
    assert symbols.nearest("hiden", kind="object") != ["hidden"]
    assert symbols.nearest("") == []


def test_build_id_agrees_with_readelf(program: Path) -> None:
    notes = subprocess.run(
        ["readelf", "-n", str(program)], capture_output=True, text=True, check=True
    ).stdout
    wanted = next(line.split()[-1] for line in notes.splitlines() if "Build ID" in line)
    assert build_id_of(program) == ElfSymbols.open(program).build_id == wanted


def test_stripped_program_keeps_only_dynamic_symbols(program: Path, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", "-o", str(stripped), str(program)], check=True)
    symbols = ElfSymbols.open(stripped)
    assert symbols.find_name("hidden") == [] and symbols.find_name("main") == []


def test_separate_debug_file_by_debug_link(program: Path, tmp_path: Path) -> None:
    stripped, folder = tmp_path / "stripped", tmp_path / ".debug"
    folder.mkdir()
    debug = folder / "stripped.debug"
    subprocess.run(["objcopy", "--only-keep-debug", str(program), str(debug)], check=True)
    subprocess.run(["strip", "-o", str(stripped), str(program)], check=True)
    subprocess.run(["objcopy", f"--add-gnu-debuglink={debug}", str(stripped)], check=True)
    symbols = ElfSymbols.open(stripped)
    assert (
        symbols.find_name("hidden")[0].address
        == ElfSymbols.open(program).find_name("hidden")[0].address
    )
    assert Path(symbols.debug_path) == debug


def test_debug_file_of_another_build_is_not_used(program: Path, tmp_path: Path) -> None:
    stripped, debug = tmp_path / "stripped", tmp_path / "stripped.debug"
    subprocess.run(["strip", "-o", str(stripped), str(program)], check=True)
    shutil.copy("/bin/true", debug)
    subprocess.run(["objcopy", f"--add-gnu-debuglink={debug}", str(stripped)], check=True)
    assert ElfSymbols.open(stripped).debug_path == ""


def test_minidebuginfo(program: Path, tmp_path: Path) -> None:
    import lzma

    packed, stripped = tmp_path / "mini.xz", tmp_path / "mini"
    debug = tmp_path / "mini.debug"
    subprocess.run(["objcopy", "--only-keep-debug", str(program), str(debug)], check=True)
    packed.write_bytes(lzma.compress(debug.read_bytes()))
    subprocess.run(["strip", "-o", str(stripped), str(program)], check=True)
    subprocess.run(["objcopy", f"--add-section=.gnu_debugdata={packed}", str(stripped)], check=True)
    assert ElfSymbols.open(stripped).find_name("hidden")[0].size > 0


def test_cut_off_minidebuginfo_is_an_error(program: Path, tmp_path: Path) -> None:
    import lzma

    packed, stripped = tmp_path / "mini.xz", tmp_path / "mini"
    packed.write_bytes(lzma.compress(program.read_bytes())[:-100])
    subprocess.run(["strip", "-o", str(stripped), str(program)], check=True)
    subprocess.run(["objcopy", f"--add-section=.gnu_debugdata={packed}", str(stripped)], check=True)
    with pytest.raises(BadElf, match=r"\.gnu_debugdata"):
        ElfSymbols.open(stripped)


def test_symbols_are_listed_once(program: Path, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    source = program.with_suffix(".c")
    subprocess.run(["cc", "-rdynamic", "-o", str(exported), str(source)], check=True)
    assert len(ElfSymbols.open(exported).find_name("shown")) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an ELF file"),
        (b"#!/bin/sh\nexit 0\n" * 8, "not an ELF file"),
        (b"\x7fELF" + b"\1\1\1" + b"\0" * 64, "32-bit"),
        (b"\x7fELF" + b"\2\2\1" + b"\0" * 64, "big-endian"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(BadElf, match=message):
        ElfSymbols.open(path)
    assert build_id_of(path) == ""


def test_truncated_file_says_so(program: Path, tmp_path: Path) -> None:
    content = program.read_bytes()
    path = tmp_path / "short"
    path.write_bytes(content[: len(content) - 200])
    with pytest.raises(BadElf, match="truncated") as caught:
        ElfSymbols.open(path)
    assert str(path) in caught.value.message and caught.value.hint


def test_absent_file_and_fifo_are_errors(tmp_path: Path) -> None:
    import os

    with pytest.raises(UnknownSymbol, match="No such file"):
        ElfSymbols.open(tmp_path / "absent")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(WorkbenchError):
        ElfSymbols.open(tmp_path / "fifo")


def test_more_headers_than_any_real_file(program: Path) -> None:
    import struct

    content = bytearray(program.read_bytes())
    struct.pack_into("<H", content, 60, 0)  # e_shnum 0: the count is in the first section header
    (shoff,) = struct.unpack_from("<Q", content, 40)
    struct.pack_into("<Q", content, shoff + 32, 1 << 60)
    with pytest.raises(BadElf, match="headers"):
        ElfFile(bytes(content), "many")
