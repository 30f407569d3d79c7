"""Compiled code on disk: found again, checked, bounded."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from workbench.objects.linked import LinkedMap, LinkedProgram
from workbench.runtime.isa.assembler import assemble
from workbench.runtime.jit import cache, compile_program
from workbench.runtime.jit import compile as compiling
from workbench.runtime.jit.compile import find

PROGRAM = LinkedProgram("p", "syscall", "syscall", assemble("mov %r0, 7\nexit"), ())
SECTION = LinkedMap(".rodata", 2, 4, 8, 1, initial=b"12345678", read_only=True)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    return tmp_path / "jit"


@pytest.fixture
def never(monkeypatch):
    def refuse(*_):
        raise AssertionError("compiled again")

    return lambda: monkeypatch.setattr(compiling, "object_code", refuse)


def test_the_second_time_nothing_is_compiled(never, folder):
    first = compile_program(PROGRAM, ())
    assert len(list(folder.iterdir())) == 1
    never()
    assert compile_program(PROGRAM, ()) == first == find(PROGRAM, ())


def test_everything_that_matters_is_in_the_name():
    compile_program(PROGRAM, [SECTION])
    other = replace(PROGRAM, code=assemble("mov %r0, 8\nexit"))
    assert find(other, [SECTION]) is None
    assert find(PROGRAM, [SECTION], tier="optimised") is None
    assert find(PROGRAM, [SECTION], vectors=True) is None
    assert find(PROGRAM, [replace(SECTION, initial=b"87654321")]) is None
    assert find(PROGRAM, [replace(SECTION, max_entries=2)]) is None
    assert find(PROGRAM, [SECTION]) is not None


def test_another_processor_or_compiler_is_another_name(monkeypatch):
    compile_program(PROGRAM, ())
    with monkeypatch.context() as patch:
        patch.setattr(cache, "processor", lambda: "another one")
        assert find(PROGRAM, ()) is None
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_llvm", lambda: "99")
        assert find(PROGRAM, ()) is None
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_sources", lambda: b"another version")
        assert find(PROGRAM, ()) is None
    assert find(PROGRAM, ()) is not None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "magic", "long"])
def test_a_damaged_file_is_written_anew(folder, damage):
    first = compile_program(PROGRAM, ())
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-1]
    elif damage == "flip":
        content[-3] ^= 1
    elif damage == "empty":
        content = bytearray()
    elif damage == "magic":
        content[0] ^= 1
    else:
        content += b"more"
    path.write_bytes(content)
    assert find(PROGRAM, ()) is None
    assert compile_program(PROGRAM, ()) == first
    assert find(PROGRAM, ()) == first


def test_a_file_that_others_may_write_is_not_run(folder):
    compile_program(PROGRAM, ())
    (path,) = folder.iterdir()
    path.chmod(0o666)
    assert find(PROGRAM, ()) is None


def test_the_folder_is_the_users_own(folder):
    compile_program(PROGRAM, ())
    assert folder.stat().st_mode & 0o777 == 0o700


def test_without_a_folder_it_compiles_all_the_same(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("WORKBENCH_CACHE", str(blocked))
    assert compile_program(PROGRAM, ()).tier == "quick"


def test_what_was_used_longest_ago_goes_first(folder):
    folder.mkdir()
    for number in range(6):
        path = folder / str(number)
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + number, 1000 + number))
    cache.trim(folder, 350)
    assert sorted(path.name for path in folder.iterdir()) == ["3", "4", "5"]


def test_files_of_other_writers_that_died_are_trimmed_too(folder):
    compile_program(PROGRAM, ())
    part = folder / ".half.123"
    part.write_bytes(bytes(1000))
    os.utime(part, (1, 1))
    cache.trim(folder, 900)
    assert not part.exists()
    assert find(PROGRAM, ()) is not None
