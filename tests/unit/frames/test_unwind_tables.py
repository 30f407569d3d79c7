"""Tables of files: the cache on disk, files without section headers, the vdso, damaged and hostile files."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from call_frames import mapped_files
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.frames import unwind_tables
from workbench.frames.symbols.elffile import ElfFile
from workbench.frames.symbols.ranges import parse_perf_map
from workbench.frames.symbols.vdso import vdso_image
from workbench.frames.unwind_tables import (
    PT_GNU_EH_FRAME,
    UnwindTable,
    UnwindTables,
    _with_entry,
    _with_sigreturn,
)
from workbench.native.build import compiler
from workbench.native.unwind import (
    AARCH64,
    ROW,
    SIGNAL,
    X86_64,
    CfaKind,
    RuleKind,
    Status,
    unwind_batch,
)


def c_library() -> str:
    return next(path for path in mapped_files() if Path(path).name.startswith("libc."))


def test_built_once_then_read_from_disk(tmp_path: Path) -> None:
    first, second = UnwindTables(tmp_path), UnwindTables(tmp_path)
    one = first.of_file(c_library())
    assert one is not None and len(one.rows) > 10_000
    assert first.of_file(c_library()) is one
    two = second.of_file(c_library())
    assert two is not None and (two.rows == one.rows).all() and two.segments == one.segments
    assert (first.built, second.built) == (1, 0)
    assert [path.name for path in tmp_path.iterdir()] == [
        f"{one.build_id}-{Path(c_library()).stat().st_size:x}-v2.npy"
    ]
    assert not one.rows.flags.writeable


def _damage_cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _damage_long(data: bytes) -> bytes:
    return data + b"\0" * 24


def _damage_header(data: bytes) -> bytes:
    return data[:20] + b"\xff" * 8 + data[28:]


def _damage_order(data: bytes) -> bytes:
    return data[:-24] + b"\0" * 24


def _damage_shape(data: bytes) -> bytes:
    return data.replace(b"'shape': (", b"'shape': (9")


def _damage_dtype(data: bytes) -> bytes:
    return data.replace(b"'<i4'", b"'>i4'")


@pytest.mark.parametrize(
    "damage",
    [
        _damage_cut,
        _damage_long,
        _damage_header,
        _damage_order,
        _damage_shape,
        _damage_dtype,
        lambda _: b"",
    ],
)
def test_damaged_cache_file_is_built_again(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    whole = UnwindTables(tmp_path).of_file(c_library())
    (kept,) = tmp_path.iterdir()
    good = kept.read_bytes()
    kept.write_bytes(damage(good))
    assert kept.read_bytes() != good
    tables = UnwindTables(tmp_path)
    again = tables.of_file(c_library())
    assert whole is not None and again is not None and (again.rows == whole.rows).all()
    assert tables.built == 1 and kept.read_bytes() == good


def test_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = UnwindTables(tmp_path)
    for age, name in enumerate(("older", "old")):
        (tmp_path / f"{name}.npy").write_bytes(bytes(1000))
        os.utime(tmp_path / f"{name}.npy", (1000 + age, 1000 + age))
    monkeypatch.setattr(unwind_tables, "MAX_CACHE", Path(c_library()).stat().st_size)
    tables.of_file(c_library())
    names = {path.name for path in tmp_path.iterdir()}
    assert {"older.npy", "old.npy"} <= names and len(names) == 3, "all fit"
    (kept,) = names - {"older.npy", "old.npy"}
    monkeypatch.setattr(unwind_tables, "MAX_CACHE", (tmp_path / kept).stat().st_size + 1500)
    (tmp_path / kept).write_bytes(b"damaged")
    UnwindTables(tmp_path).of_file(c_library())
    assert {path.name for path in tmp_path.iterdir()} == {kept, "old.npy"}


def test_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    table = UnwindTables(tmp_path / "file" / "sub").of_file(c_library())
    assert table is not None and len(table.rows) > 10_000


def test_what_is_no_program(tmp_path: Path) -> None:
    tables = UnwindTables(tmp_path / "cache")
    (tmp_path / "text").write_text("no program" * 100)
    assert tables.of_file(tmp_path / "text") is None
    assert tables.of_file(tmp_path / "absent") is None
    assert tables.of_file(tmp_path) is None
    assert tables.of_file("/dev/null") is None
    assert tables.of_file("a\0b") is None
    assert tables.of_image(b"") is None


def test_file_without_section_headers_gives_the_same_table(tmp_path: Path) -> None:
    data = bytearray(Path(c_library()).read_bytes())
    data[40:48] = bytes(8)  # e_shoff
    data[60:64] = bytes(4)  # e_shnum, e_shstrndx
    (tmp_path / "stripped").write_bytes(data)
    whole = UnwindTables(tmp_path / "a").of_file(c_library())
    stripped = UnwindTables(tmp_path / "b").of_file(tmp_path / "stripped")
    assert whole is not None and stripped is not None
    assert (whole.rows == stripped.rows).all() and len(whole.rows) == len(stripped.rows)


def test_file_without_build_id_is_told_from_another(tmp_path: Path) -> None:
    made = []
    for name, body in (("a", "return x + 1;"), ("b", "volatile int y[40]; y[x] = 1; return y[0];")):
        (tmp_path / f"{name}.c").write_text(f"int {name}(int x) {{ {body} }}\n")
        made.append(tmp_path / f"{name}.so")
        subprocess.run(
            [
                compiler(),
                "-O2",
                "-shared",
                "-fPIC",
                "-Wl,--build-id=none",
                "-o",
                made[-1],
                tmp_path / f"{name}.c",
            ],
            check=True,
        )
    tables = UnwindTables(tmp_path / "cache")
    assert [table.build_id for table in map(tables.of_file, made) if table] == ["", ""]
    assert len(list((tmp_path / "cache").glob("file-*.npy"))) == 2


def test_vdso() -> None:
    image = vdso_image()
    if not image:
        pytest.skip("no vdso in this process")
    table = UnwindTables().of_image(image)
    assert table is not None and len(table.rows) > 5
    assert UnwindTables().of_image(image[:200]) is None or len(image) < 200


def test_bias_of_segments_that_share_a_page() -> None:
    table = UnwindTable(
        np.zeros(0, ROW), X86_64, ((0x1000, 0x401000, 0x500), (0x1500, 0x402500, 0x2000)), ""
    )
    assert table.bias(0x401000, 0x1000, 0x1000) == 0
    assert table.bias(0x402000, 0x1000, 0x3000) == 0
    assert table.bias(0x7F0000001000, 0x1000, 0x3000) == 0x7F0000001000 - 0x402000
    assert table.bias(0x1000, 0x4000, 0x1000) == (0x1000 - 0x4000) % 2**64


def test_entry_without_information_is_the_outermost_frame() -> None:
    with ElfFile(sys.executable) as elf:
        entry = elf.entry
        rows = np.zeros(2, ROW)
        rows["start"] = (entry + 0x40, entry + 0x80)
        rows["cfa_kind"] = (CfaKind.SP, CfaKind.NONE)
        before = _with_entry(elf, rows)
        assert before["start"].tolist() == [entry, entry + 0x40, entry + 0x80]
        assert before["ra_rule"][0] == RuleKind.UNDEFINED
        rows["start"] = (entry - 0x40, entry)
        after = _with_entry(elf, rows)
        assert after["start"].tolist() == [entry - 0x40, entry, entry + 128]
        assert after["cfa_kind"].tolist() == [CfaKind.SP, CfaKind.SP, CfaKind.NONE]
        rows["start"] = (entry, entry + 0x80)
        assert _with_entry(elf, rows) is rows, "said already"


def _image(machine: int, code: bytes) -> bytes:
    """A minimal ELF image: one executable segment."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 120 + len(code), 120 + len(code), 4096)
    return head + segment + code


def test_python_trampolines_in_generated_code() -> None:
    one = bytes.fromhex("f30f1efa4883ec08ffd14883c408c3") + bytes(1)
    tables = UnwindTables()
    table = tables.of_generated_code(bytes(32) + one * 3 + b"\x48\x83\xec\x08", X86_64)
    assert table is not None and table.bias(0x7000, 0, 0x1000) == 0x7000
    assert table.rows["start"].tolist() == [32 + 16 * k + at for k in range(3) for at in (4, 8, 14, 15)]
    assert table.rows["cfa_offset"].tolist() == [8, 16, 8, 0] * 3
    assert tables.of_generated_code(bytes(100), X86_64) is None
    assert tables.of_generated_code(b"", X86_64) is None
    assert tables.of_generated_code(one, AARCH64) is None


def test_python_trampolines_by_their_names() -> None:
    text = b"7010 b py::f:/x.py\n7020 f py::g:/x.py\n7030 8 py::h:/x.py\n7040 b other\n9000 b py::i:/x.py\n"
    functions = parse_perf_map(text)
    table = UnwindTables().of_perf_map(functions, 0x7000, 0x8000, X86_64)
    assert table is not None and table.bias(0x7000, 0, 0x1000) == 0x7000
    # The longer one has an endbr64 first; one of 8 bytes keeps the frame pointer; the last is in another mapping.
    assert table.rows["start"].tolist() == [at + k for at in (0x10, 0x24) for k in (0, 4, 10, 11)]
    assert UnwindTables().of_perf_map(functions, 0x7000, 0x8000, AARCH64) is None
    assert UnwindTables().of_perf_map(parse_perf_map(b""), 0x7000, 0x8000, X86_64) is None


def test_signal_trampoline_of_aarch64() -> None:
    code = bytes(8) + bytes.fromhex("681180d2010000d4") + bytes(8)
    with ElfFile(_image(AARCH64, code), "vdso") as elf:
        rows = _with_sigreturn(elf, np.zeros(0, ROW))
    at = 120 + 8
    assert rows["start"].tolist() == [at - 4, at + 8]
    assert rows["flags"].tolist() == [SIGNAL, 0]
    # struct rt_sigframe: regs[29], regs[30], sp and pc at 544, 552, 560 and 568; the interrupted function is a leaf
    # whose return address is still in regs[30]
    outer = np.zeros(2, ROW)
    outer["start"] = (0x1000, 0x2000)
    outer["cfa_kind"] = CfaKind.SP
    outer["ra_rule"] = (RuleKind.SAME, RuleKind.UNDEFINED)
    rows = np.concatenate([rows, outer])
    frame = bytearray(600)
    struct.pack_into("<4Q", frame, 544, 0x99, 0x2005, 0x7000 + 600, 0x1000)
    from workbench.native.unwind import MAPPING

    mappings = np.zeros(1, MAPPING)
    mappings[0] = (0, 0x3000, 0, rows.ctypes.data, len(rows), 0, 0)
    addresses, _, status = unwind_batch(
        [mappings],
        np.zeros(1, np.int32),
        np.array([[at, 0x7000, 0, 0]], np.uint64),
        np.frombuffer(bytes(frame), np.uint8),
        np.zeros(1, np.int64),
        np.array([600], np.int32),
        AARCH64,
        8,
    )
    assert addresses.tolist() == [at, 0x1000, 0x2004] and status[0] == Status.COMPLETE


@pytest.fixture(scope="module")
def small_library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("small")
    (folder / "a.c").write_text(
        "int f(int (*g)(int)) { volatile int y[40]; y[1] = g(1); return y[1]; }\n"
    )
    subprocess.run(
        [compiler(), "-O2", "-shared", "-fPIC", "-o", folder / "a.so", folder / "a.c"], check=True
    )
    return (folder / "a.so").read_bytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_file_never_raises(
    small_library: bytes, tmp_path_factory: pytest.TempPathFactory, data
) -> None:  # type: ignore[no-untyped-def]
    image = bytearray(small_library)
    with ElfFile(small_library, "small") as elf:
        places = [
            0x10,
            0x20,
            0x28,
            0x36,
            0x38,
            0x3A,
            0x3C,
            0x3E,
            *range(64, 64 + 56 * len(elf.segments), 8),
        ]
        header = int(elf.segments["offset"][elf.segments["type"] == PT_GNU_EH_FRAME][0])
        places += list(range(header, header + 12))
        if (found := elf.section(".eh_frame")) is not None:
            places += list(range(found.offset, found.offset + found.size))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.sampled_from(places))
        new = data.draw(
            st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8), st.just(bytes(8)))
        )
        image[at : at + len(new)] = new
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(image))))
    table = UnwindTables(Path("/nonexistent")).of_image(bytes(image[:cut]))
    if table is not None:
        starts = table.rows["start"]
        assert (starts[1:] > starts[:-1]).all()


@pytest.mark.needs("clang")
def test_aarch64_object_against_readelf(tmp_path: Path) -> None:
    """A compiler's aarch64 output: each place where readelf shows a rule, the rows say the same."""
    import re

    from call_frames import SECTION, TEXT

    from workbench.native.unwind import build_rows

    clang = shutil.which("clang") or shutil.which("clang-19")
    assert clang
    (tmp_path / "a.c").write_text(
        "int g(int, char *);\n"
        "int leaf(int x) { return x * 3; }\n"
        "int f(int n) { char b[300]; int s = 0; for (int i = 0; i < n; i++) s += g(i, b); return s + leaf(n); }\n"
        "int h(int n) { char b[n + 1]; return g(n, b); }\n"
    )
    flags = [
        "--target=aarch64-linux-gnu",
        "-O2",
        "-fasynchronous-unwind-tables",
        "-mbranch-protection=pac-ret",
        "-c",
    ]
    subprocess.run([clang, *flags, "-o", tmp_path / "a.o", tmp_path / "a.c"], check=True)
    with ElfFile(tmp_path / "a.o") as elf:
        frames, fixes = elf.section(".eh_frame"), elf.section(".rela.eh_frame")
        assert frames is not None and fixes is not None and elf.machine == AARCH64
        data = bytearray(elf.content(frames))
        # R_AARCH64_PREL32 against .text, the only section with code
        for at, _, addend in struct.iter_unpack("<QQq", elf.content(fixes)):
            struct.pack_into("<i", data, at, TEXT + addend - SECTION - at)
    rows = build_rows(bytes(data), SECTION, AARCH64).rows
    text = subprocess.run(
        ["readelf", "--debug-dump=frames-interp", tmp_path / "a.o"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    compared, columns = 0, []
    for line in text.splitlines():
        if "LOC" in line:
            columns = line.split()
        elif "FDE" in line:
            inside = True
        elif "CIE" in line:
            inside = False
        elif re.match(r"[0-9a-f]{16} ", line) and inside:
            cells = dict(zip(columns, line.split(), strict=True))
            got = rows[np.searchsorted(rows["start"], TEXT + int(cells["LOC"], 16), "right") - 1]
            register, offset = re.fullmatch(r"(sp|x29)([+-]\d+)", cells["CFA"]).groups()  # type: ignore[union-attr]
            assert got["cfa_kind"] == {"sp": CfaKind.SP, "x29": CfaKind.FP}[register]
            assert got["cfa_offset"] == int(offset)
            for column, rule, place in (
                ("x29", "fp_rule", "fp_offset"),
                ("ra", "ra_rule", "ra_offset"),
            ):
                cell = cells.get(column, "u")
                if cell.startswith("c"):
                    assert (got[rule], f"c{got[place]:+}") == (RuleKind.AT_CFA, cell)
                else:
                    assert got[rule] == RuleKind.SAME
            compared += 1
    assert compared > 10
