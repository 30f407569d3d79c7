"""Readable names, JIT maps, the kernel's table, llvm-symbolizer's misbehaviour."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.frames.symbols.demangle import demangle
from workbench.frames.symbols.elf import ElfSymbols
from workbench.frames.symbols.lines import LineResolver
from workbench.frames.symbols.mappings import Mappings, parse_maps
from workbench.frames.symbols.ranges import parse_kallsyms, parse_perf_map, python_name
from workbench.frames.symbols.store import SymbolStore
from workbench.frames.symbols.symbolizer import Symbolizer


@pytest.mark.parametrize(
    ("mangled", "readable"),
    [
        (b"main", "main"),
        (b"_ZN3foo3barEi", "foo::bar(int)"),
        (b"_ZN3foo3barEi.cold", "foo::bar(int) [clone .cold]"),
        (
            b"_ZNSt6vectorIiSaIiEE9push_backEOi",
            "std::vector<int, std::allocator<int> >::push_back(int&&)",
        ),
        (b"_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"),
        (
            b"_ZN63_$LT$alloc..vec..Vec$LT$T$GT$$u20$as$u20$core..clone..Clone$GT$5clone17h0123456789abcdefE",
            "<alloc::vec::Vec<T> as core::clone::Clone>::clone",
        ),
        (b"_Znot_mangled_at_all", "_Znot_mangled_at_all"),
        (b"\xff\xfe", "��"),
    ],
)
def test_readable_names(mangled: bytes, readable: str) -> None:
    assert demangle(mangled) == readable


@given(st.binary(max_size=60).filter(lambda b: b"\0" not in b))
def test_any_name_gives_some_text(tail: bytes) -> None:
    for head in (b"", b"_Z", b"_ZN", b"_R"):
        assert isinstance(demangle(head + tail), str)


@pytest.mark.parametrize(
    ("mangled", "readable"),
    [
        # From real programs (rustc 1.95), as llvm-cxxfilt reads them.
        (b"_RNCNCNCNvNtCsjrHSEGnQ3l9_3std2rt19lang_start_internal00s_0B9_",
         "std::rt::lang_start_internal::{closure#0}::{closure#0}::{closure#1}"),
        (b"_RNvXs_Cs5_4rustINtB4_1AjENtNtCsgEmfK2I1SDS_4core3fmt7Display3fmtB4_",
         "<rust::A<usize> as core::fmt::Display>::fmt"),
        (b"_RINvNtCs1_4core3mem4swapAhj8_EB4_.cold", "core::mem::swap::<[u8; 8]> [clone .cold]"),
        (b"_RINvNtCs1_4core3mem4swapAhj8_EB4_.llvm.123", "core::mem::swap::<[u8; 8]>"),
        (b"_RNSNvYNCNvCs1_1a1b0INtNtNtCs2_4core3ops8function6FnOnceTRNtB8_1cEE9call_once6vtableB8_",
         "<a::b::{closure#0} as core::ops::function::FnOnce<(&a::c,)>>::call_once::{shim:vtable#0}"),
        # From the RFC.
        (b"_RNqCs4fqI2P2rA04_11utf8_identsu30____7hkackfecea1cbdathfdh9hlq6y", "utf8_idents::საჭმელად_გემრიელი_სადილი"),
        (b"_RMCsno73SFvQKx_1cINtB0_1CK_E", None),
        (b"_RIC0Kb1_Kan80_Kc41_E", "::<true, -128, 'A'>"),
        (b"_RIC1aDNtC1b1TEL_E", "a::<dyn b::T>"),
        (b"_RIC1aDINtC1b1TyEp4ItemmEL_E", "a::<dyn b::T<u64, Item = u32>>"),
        (b"_RIC1aFUKCjPhEOuE", 'a::<unsafe extern "C" fn(usize, *const u8) -> *mut ()>'),
        (b"_RIC1aRSbQTaeEE", "a::<&[bool], &mut (i8, str)>"),
        (b"_RB_", None),  # a back reference to itself
        (b"_RNvC1a", None),
    ],
)  # fmt: skip
def test_rust_v0_names(mangled: bytes, readable: str | None) -> None:
    assert demangle(mangled) == (mangled.decode() if readable is None else readable)


def test_a_rust_name_made_to_explode_is_left_alone() -> None:
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

    def reference(position: int) -> str:
        high, low = divmod(position - 1, 62)
        return f"B{digits[high] if high else ''}{digits[low]}_"

    def name(tuples: int) -> bytes:
        # Each tuple holds the one before twice: 2^40 types if 40 of them were written out.
        body, last = "IC1aTmmE", 4
        for _ in range(tuples):
            here = len(body)
            body += f"T{reference(last) * 2}E"
            last = here
        return f"_R{body}E".encode()

    assert demangle(name(1)) == "a::<(u32, u32), ((u32, u32), (u32, u32))>"
    assert demangle(name(40)) == name(40).decode()


@given(st.text("CMXYNIBsutfTREQPOFDLKpGUv_019ab", max_size=80))
def test_any_rust_name_gives_some_text(tail: str) -> None:
    assert isinstance(demangle(b"_R" + tail.encode()), str)


def test_perf_map_later_lines_win_and_bad_lines_are_left_out() -> None:
    table = parse_perf_map(
        b"1000 10 old\n1000 20 py::work:/home/a b/x.py\nnonsense\nzz 1 x\n2000 0 empty\n3000 8 a name with spaces\n"
    )
    assert table.names == ["py::work:/home/a b/x.py", "a name with spaces"]
    found = table.find(np.array([0xFFF, 0x1000, 0x101F, 0x1020, 0x3007], np.uint64))
    assert found.tolist() == [-1, 0, 0, -1, 1]


@given(st.binary(max_size=200))
def test_any_perf_map_is_survived(content: bytes) -> None:
    table = parse_perf_map(content)
    assert (table.ends > table.starts).all()


def test_python_names() -> None:
    assert python_name("py::work:/home/me/job.py") == "work (job.py)"
    assert python_name("py::<module>:<string>") == "<module> (<string>)"
    assert python_name("work") is None


def test_kallsyms_names_and_hidden_addresses() -> None:
    table = parse_kallsyms(
        b"ffffffff81000000 T __alias\nffffffff81000000 T vfs_read\nffffffff81000100 t local\n"
        b"ffffffffc0000000 t in_module\t[ext4]\nffffffff82000000 D data\n"
    )
    assert list(table.names) == ["vfs_read", "local", "in_module"]
    assert table.modules == ["[kernel]", "[kernel]", "[ext4]"]
    assert table.find(np.array([0xFFFFFFFF810000FF, 0xFFFFFFFF80000000], np.uint64)).tolist() == [
        0,
        -1,
    ]
    assert len(parse_kallsyms(b"0000000000000000 T vfs_read\n").names) == 0
    # What does not parse is left out; the last line needs no end.
    odd = b"\n\nshort\nzzzzffff81000000 T no_number\nffffffff81000200 Tno_space\nffffffff81000300 w last"
    assert list(parse_kallsyms(odd).names) == ["last"]
    assert len(parse_kallsyms(b"").names) == 0


@pytest.mark.needs("kallsyms")
def test_kallsyms_of_this_kernel_and_their_memory() -> None:
    content = Path("/proc/kallsyms").read_bytes()
    table = parse_kallsyms(content)
    wanted = {}
    for line in content.decode().splitlines():
        address, kind, name = line.split()[:3]
        if kind in "tTwW" and int(address, 16):
            wanted.setdefault(int(address, 16), set()).add(name)
    assert table.starts.tolist() == sorted(wanted)
    assert all(
        name in wanted[start]
        for start, name in zip(table.starts.tolist(), table.names, strict=True)
    )
    assert parse_kallsyms(bytes(bytearray(content))) is table
    # A BPF program loaded meanwhile is known.
    grown = parse_kallsyms(content + b"ffffffffc0ffee00 t bpf_prog_new\t[bpf]\n")
    found = grown.find(np.array([0xFFFFFFFFC0FFEE04], np.uint64))
    assert [grown.names[i] for i in found] == ["bpf_prog_new"]
    assert [grown.modules[i] for i in found] == ["[bpf]"]


def test_maps_lines() -> None:
    rows = parse_maps(
        b"00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/a b\\012c (deleted)\n"
        b"7f00-7f10 rw-p 00000000 00:00 0 \n"
        b"7ffd-7fff r-xp 00000000 00:00 0                          [vdso]\n"
        b"garbage\n"
    )
    assert rows == [
        (0x400000, 0x452000, 0x1000, "/usr/bin/a b\nc (deleted)"),
        (0x7FFD, 0x7FFF, 0, "[vdso]"),
    ]
    assert len(parse_maps(b"7f00-7f10 rw-p 00000000 00:00 0 \n", executable_only=False)) == 1


def _columns(*rows: tuple[int, int, int, int, str]) -> dict[str, object]:
    time, pid, start, end, path = zip(*rows, strict=True)
    return {
        "time": time, "pid": pid, "start": start, "end": end, "offset": [0] * len(rows),
        "path": path, "build_id": [""] * len(rows),
    }  # fmt: skip


def test_frames_without_any_symbols(tmp_path: Path) -> None:
    mappings = Mappings.from_columns(
        _columns(
            (0, 1, 0x1000, 0x2000, "/gone/libx.so"),
            (0, 1, 0x5000, 0x6000, ""),
            (0, 1, 0x9000, 0xA000, "[heap]"),
        )
    )
    kallsyms = tmp_path / "kallsyms"
    kallsyms.write_text("ffffffff81000000 T vfs_read\n")
    perf_maps = {1: b"5000 100 jitted\n5100 100 py::work:/a/job.py\n"}
    addresses = np.array(
        [0x1010, 0x5001, 0x5101, 0x5FFF, 0xFFFFFFFF81000001, 0x10, 0x1010], np.uint64
    )
    with Symbolizer(
        mappings, perf_maps=perf_maps, kallsyms=kallsyms, store=SymbolStore(tmp_path)
    ) as symbolizer:
        frames = symbolizer.resolve(1, addresses)
        assert frames.function.to_pylist() == [
            "libx.so+0x10", "jitted", "work (job.py)", "0x5fff", "vfs_read", "0x10", "libx.so+0x10",
        ]  # fmt: skip
        assert frames.space.to_pylist() == [
            "user",
            "jit",
            "python",
            "user",
            "kernel",
            "user",
            "user",
        ]
        assert frames.module.to_pylist() == [
            "/gone/libx.so", "", "/a/job.py", "", "[kernel]", "", "/gone/libx.so",
        ]  # fmt: skip
        assert (
            frames.index.tolist() == list(range(7))
            and not frames.depth.any()
            and not frames.inlined.any()
        )
        assert symbolizer.functions(1, addresses).to_pylist() == frames.function.to_pylist()
        places = symbolizer.modules(
            1, np.array([0x9001, 0x5001, 0x3, 0xFFFFFFFF81000001], np.uint64)
        )
        assert places.to_pylist() == ["[heap]", "[anonymous]", "", "[kernel]"]
        assert "exist" in symbolizer.problems["/gone/libx.so"]
        empty = symbolizer.resolve(np.zeros(0, np.int32), np.zeros(0, np.uint64))
        assert len(empty) == 0 and empty.function.to_pylist() == []


def test_hidden_kernel_symbols_and_two_processes(tmp_path: Path) -> None:
    mappings = Mappings.from_columns(
        _columns((0, 1, 0x1000, 0x2000, "/gone/a"), (0, 2, 0x1000, 0x2000, "/gone/b"))
    )
    with Symbolizer(
        mappings, kallsyms=None, perf_maps={}, store=SymbolStore(tmp_path)
    ) as symbolizer:
        kernel = 0xFFFF800000000000
        pids = np.array([2, 1, 1, 2, 3], np.int32)
        names = symbolizer.functions(
            pids, np.array([0x1004, 0x1004, kernel, kernel, 0x1004], np.uint64)
        )
    assert names.to_pylist() == ["b+0x4", "a+0x4", "[kernel]", "[kernel]", "0x1004"]
    assert len(set(names.dictionary.to_pylist())) == len(names.dictionary)


def test_times_tell_a_program_from_the_one_it_became(tmp_path: Path) -> None:
    mappings = Mappings.from_columns(
        _columns((10, 1, 0x1000, 0x2000, "/gone/sh"), (20, 1, 0x1000, 0x2000, "/gone/db"))
    )
    with Symbolizer(mappings, perf_maps={}, store=SymbolStore(tmp_path)) as symbolizer:
        addresses, times = np.full(4, 0x1001, np.uint64), np.array([5, 15, 20, 99])
        assert symbolizer.functions(1, addresses, times).to_pylist() == [
            "sh+0x1",
            "sh+0x1",
            "db+0x1",
            "db+0x1",
        ]
        assert symbolizer.functions(1, addresses).to_pylist() == ["db+0x1"] * 4


def _tool(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    "body", ["exit 1", "read line; echo '{not json'; exit 0", "while read line; do :; done"]
)
def test_a_broken_symbolizer_gives_no_lines_and_no_error(tmp_path: Path, body: str) -> None:
    resolver = LineResolver(_tool(tmp_path / "tool", body), timeout=0.3)
    try:
        assert resolver.resolve("/bin/true", [1, 2, 3]) == [(), (), ()]
    finally:
        resolver.close()


def test_a_symbolizer_that_dies_once_is_started_again(tmp_path: Path) -> None:
    answer = '{"Symbol":[{"FileName":"a.c","FunctionName":"f","Line":7}]}'
    once = f"[ -e {tmp_path}/died ] || {{ touch {tmp_path}/died; read l; exit 1; }}"
    body = f"{once}\nwhile read l; do echo '{answer}'; done"
    resolver = LineResolver(_tool(tmp_path / "tool", body), timeout=5)
    try:
        frames = resolver.resolve("/bin/true", [1, 2])
        assert [frame.line for one in frames for frame in one] == ["a.c:7", "a.c:7"]
    finally:
        resolver.close()


@pytest.mark.needs("C compiler", "llvm-symbolizer")
def test_paths_of_lines_are_tidy(tmp_path: Path) -> None:
    # GIVEN a build that names its source the way CPython's and libtool's do
    (tmp_path / "build" / "sub").mkdir(parents=True)
    (tmp_path / "main.c").write_text("int main(void) {\n    return 7;\n}\n")
    command = ["cc", "-g", "-O0", "-o", "program", "./sub/../.././main.c"]
    subprocess.run(command, cwd=tmp_path / "build", check=True, timeout=60)
    program = tmp_path / "build" / "program"
    (main,) = ElfSymbols.open(program).find_name("main")
    resolver = LineResolver()
    try:
        ((frame,),) = resolver.resolve(str(program), [main.address + main.size - 1])
    finally:
        resolver.close()
    assert frame.line == f"{tmp_path}/main.c:3"


def test_no_tool_means_no_lines() -> None:
    resolver = LineResolver("/nonexistent/llvm-symbolizer")
    assert resolver.resolve("/bin/true", [1]) == [()]
    resolver.close()
