import os
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.collectors.dwarf import debug_info
from workbench.collectors.ldcache import cached_libraries, library_closure, parse_cache
from workbench.collectors.modules import Modules, module_rank
from workbench.collectors.resolve import resolve_data, resolve_function, split_location
from workbench.errors import BadSpec, TargetGone, UnknownSymbol
from workbench.frames.symbols.elf import ElfSymbols

SOURCE = """
#include <stdio.h>
#include <unistd.h>
struct point { short x, y; };
struct state { char tag; struct point at[3]; union { long hits; double rate; }; int bits : 3; } state;
long table[2][5];
__thread int local;
int counter = 7;
__attribute__((noinline)) int work(int a) { __asm__ volatile(""); return a + counter; }
int alias(int) __attribute__((alias("work"), weak));
int main(void) { char c; 
  printf("%p %p %p %p\\n", (void *)work, (void *)&state.hits, (void *)&table[1][3], (void *)&state.at[2].y);
  fflush(stdout); local = read(0, &c, 1); return work(0); }
"""


@pytest.fixture(scope="module", params=["-pie", "-no-pie"])
def program(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resolve")
    (folder / "p.c").write_text(SOURCE)
    output = folder / f"prog{request.param}"
    subprocess.run(
        ["gcc", "-g", "-O1", "-fPIE", request.param, "-o", output, folder / "p.c"], check=True
    )
    return str(output)


@pytest.fixture
def running(program):
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.addresses = [int(x, 16) for x in process.stdout.readline().split()]
        yield process
        process.stdin.close()


def test_run_time_addresses_agree_with_the_program(running):
    work, hits, element, y = running.addresses
    modules = Modules(running.pid)
    place = resolve_function(modules, "work")[0]
    assert place.address == work and place.symbol == "work"
    assert resolve_function(modules, hex(work))[0] == place
    assert resolve_data(modules, "state.hits").address == hits
    found = resolve_data(modules, "table[1][3]")
    assert (found.address, found.size, found.type) == (element, 8, "long int")
    assert resolve_data(modules, "state.at[2].y").address == y
    assert resolve_data(modules, "table+64").address == element
    assert resolve_data(modules, "table[1]").size == 40
    assert resolve_data(modules, "counter").size == 4


def test_an_alias_is_one_place_with_the_name_asked_for(running):
    modules = Modules(running.pid)
    assert resolve_function(modules, "alias")[0].symbol == "alias"
    assert (
        resolve_function(modules, "alias")[0].file_offset
        == resolve_function(modules, "work")[0].file_offset
    )
    assert len(resolve_function(modules, "[aw][lo][ir]*")) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("table[2]", "2 elements"), ("state.nope", "no member"),
        ("counter.x", "not a struct"), ("counter[1]", "not an array"),
        ("local", "thread-local"), ("countre", "counter"), ("table+80", "outside"), ("state.bits", "bit field"),
        ("state->x", "not understood"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_watched_says_why(running, text, words):
    with pytest.raises(UnknownSymbol) as error:
        resolve_data(running.pid, text)
    assert words in str(error.value)


def test_offsets_are_bytes_of_the_file_and_must_be_code(program):
    place = resolve_function(None, f"{program}:work")[0]
    assert resolve_function(None, f"{program}+{place.file_offset:#x}")[0].vaddr == place.vaddr
    assert resolve_function(None, f"{program}:work+0x2")[0].file_offset == place.file_offset + 2
    with pytest.raises(UnknownSymbol, match="executable"):
        resolve_function(None, f"{program}+0x10000000")
    with pytest.raises(UnknownSymbol, match="outside"):
        resolve_function(None, f"{program}:work+0x1000")
    with pytest.raises(UnknownSymbol, match="no main program"):
        resolve_function(None, "work")


def test_signatures_from_dwarf(program):
    symbols = ElfSymbols.open(program)
    info = debug_info(program)
    found = info.signature(symbols.find_name("work")[0].address)
    assert str(found) == "(int a)->int"
    assert info.signature(symbols.find_name("work")[0].address + 1) is None


def test_damaged_debug_information_is_no_debug_information(program, tmp_path):
    data = bytearray(Path(program).read_bytes())
    from workbench.frames.symbols.elffile import ElfFile

    with ElfFile(program) as elf:
        section = elf.section(".debug_info")
    data[section.offset : section.offset + section.size] = b"\xff" * section.size
    broken = tmp_path / "broken"
    broken.write_bytes(data)
    symbols = ElfSymbols.open(broken)
    info = debug_info(str(broken))
    assert info is None or info.signature(symbols.find_name("work")[0].address) is None


def test_module_names():
    path = "/usr/lib/x86_64-linux-gnu/libsqlite3.so.0.8.6"
    ranks = [
        module_rank(path, name)
        for name in (path, "libsqlite3.so.0.8.6", "libsqlite3", "sqlite3", "libsql")
    ]
    assert ranks == [0, 1, 2, 4, -1]
    assert module_rank("/x/libquadmath-96973f99.so.0", "libquadmath") == 3
    assert (
        module_rank("/lib/libc-2.31.so", "libc") == 3
        and module_rank("/lib/libcap.so.2", "libc") == -1
    )


def test_libraries_that_are_not_mapped_are_found_as_the_linker_would():
    assert any(name.startswith("libc.so") for name in cached_libraries())
    closure = list(library_closure(Modules(os.getpid()).main.path))
    assert any("libc.so" in path for path in closure)
    found = resolve_function(None, "libc:malloc")
    assert found[0].address is None and found[0].symbol == "malloc"


def test_indirect_functions_resolve_to_what_runs_or_are_left_out():
    notes = []
    place = resolve_function(os.getpid(), "libc:strlen", warnings=notes)[0]
    import ctypes

    chosen = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value
    assert place.address == chosen


def test_what_does_not_exist():
    with pytest.raises(TargetGone):
        Modules(2**22 + 1)
    with pytest.raises(UnknownSymbol) as error:
        resolve_function(os.getpid(), "libc:mallok")
    assert "malloc" in error.value.hint
    with pytest.raises(BadSpec):
        resolve_function(os.getpid(), "libc:")


def test_colons_of_cxx_names_do_not_split():
    assert split_location("libfoo:ns::f") == ("libfoo", "ns::f")
    assert split_location("ns::f") == ("", "ns::f")


@given(st.binary(max_size=300))
def test_any_cache_file_is_read_without_harm(data):
    head = b"glibc-ld.so.cache1.1"
    parse_cache(head + data)
    parse_cache(head + struct.pack("<II", 1000, 1000).ljust(28, b"\0") + data, flags=0)


def test_cache_entries():
    strings = b"libx.so.1\0/lib/libx.so.1\0"
    at = 48 + 24
    entry = struct.pack("<iIIIQ", 0x0303, at, at + 10, 0, 0)
    data = (
        b"glibc-ld.so.cache1.1"
        + struct.pack("<II", 1, len(strings)).ljust(28, b"\0")
        + entry
        + strings
    )
    assert parse_cache(data, 0x0303) == {"libx.so.1": "/lib/libx.so.1"}
    assert parse_cache(data, 0x0A03) == {}
