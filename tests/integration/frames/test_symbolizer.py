"""Addresses of real processes: alive, exited, deleted, in another mount namespace, JIT-compiled, in the vdso."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from workbench.errors import TargetGone
from workbench.frames.symbols.mappings import Mappings
from workbench.frames.symbols.store import SymbolStore, default_store
from workbench.frames.symbols.symbolizer import Resolved, Symbolizer

pytestmark = pytest.mark.needs("C compiler")

C_SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
int counter;
__attribute__((noinline)) void *caller(void) { counter++; return __builtin_return_address(0); }
static inline __attribute__((always_inline)) void *inner(void) {
    void *here = caller(); /* line INNER */
    counter += 2;
    return here;
}
static inline __attribute__((always_inline)) void *middle(void) { return inner(); /* line MIDDLE */ }
__attribute__((noinline)) static void *outer(void) {
    void *here = middle(); /* line OUTER */
    counter += 3;
    return here;
}
int main(void) {
    void *heap = malloc(64);
    printf("outer %p caller %p inlined %p counter %p heap %p stack %p\n",
           (void *)outer, (void *)caller, outer(), (void *)&counter, heap, (void *)&heap);
    fflush(stdout);
    getchar();
    return 0;
}
"""
CXX_SOURCE = r"""
#include <cstdio>
namespace shop {
template <typename T> struct Basket {
    __attribute__((noinline)) T total(T one) { sum += one; return sum; }
    T sum = 0;
};
}
int main() {
    shop::Basket<int> basket;
    int (shop::Basket<int>::*method)(int) = &shop::Basket<int>::total;
    basket.total(1);
    std::printf("total %p\n", reinterpret_cast<void *&>(method));
    std::fflush(stdout);
    getchar();
}
"""


def _build(folder: Path, *flags: str, source: str = C_SOURCE, compiler: str = "cc") -> Path:
    file = folder / ("program.cc" if compiler == "c++" else "program.c")
    file.write_text(source)
    out = folder / "program"
    subprocess.run(
        [compiler, "-O1", "-Wl,--build-id", *flags, "-o", str(out), str(file)],
        check=True,
        timeout=60,
    )
    return out


@contextmanager
def _running(*command: str) -> Iterator[tuple[int, dict[str, int]]]:
    """The pid of a program that printed its addresses and waits, and those addresses."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    try:
        words = child.stdout.readline().split()
        yield (
            child.pid,
            {name: int(value, 16) for name, value in zip(words[::2], words[1::2], strict=True)},
        )
    finally:
        child.communicate("\n", timeout=20)


def _frames(found: Resolved) -> list[tuple[int, int, str, str, bool]]:
    return list(
        zip(
            found.index.tolist(),
            found.depth.tolist(),
            found.function.to_pylist(),
            [Path(line).name for line in found.line.to_pylist()],
            found.inlined.tolist(),
            strict=True,
        )
    )


def _line_of(word: str) -> int:
    return next(i for i, line in enumerate(C_SOURCE.splitlines(), 1) if f"line {word}" in line)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    default_store.cache_clear()
    yield
    default_store.cache_clear()


@pytest.mark.parametrize("flags", [(), ("-no-pie",), ("-static",), ("-static-pie",)], ids=str)
def test_functions_of_a_process_before_and_after_it_exits(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    program = _build(tmp_path, *flags)
    with _running(str(program)) as (pid, at):
        mappings = Mappings.from_columns(Mappings.snapshot(pid))
        addresses = np.array([at["outer"], at["caller"] + 1, at["outer"]], np.uint64)
        with Symbolizer(mappings) as live:
            assert live.functions(pid, addresses).to_pylist() == ["outer", "caller", "outer"]
    # GIVEN the process is gone and the program is deleted THEN its build id still leads to the names
    program.unlink()
    with Symbolizer(mappings, store=SymbolStore()) as later:
        found = later.resolve(pid, addresses)
    assert found.function.to_pylist() == ["outer", "caller", "outer"]
    assert set(found.module.to_pylist()) == {str(program)} and set(found.space.to_pylist()) == {
        "user"
    }


@pytest.mark.needs("llvm-symbolizer")
def test_lines_and_inlined_calls(tmp_path: Path) -> None:
    program = _build(tmp_path, "-g")
    with _running(str(program)) as (pid, at):
        mappings = Mappings.from_columns(Mappings.snapshot(pid))
    addresses = np.array([at["caller"], at["inlined"] - 1, at["inlined"] - 1], np.uint64)
    with Symbolizer(mappings) as symbolizer:
        found = symbolizer.resolve(np.full(3, pid, np.int32), addresses)
        plain = symbolizer.functions(pid, addresses)
    inlined = [
        (0, "inner", f"program.c:{_line_of('INNER')}", True),
        (1, "middle", f"program.c:{_line_of('MIDDLE')}", True),
        (2, "outer", f"program.c:{_line_of('OUTER')}", False),
    ]
    assert _frames(found)[0][:3] == (0, 0, "caller") and _frames(found)[0][3].startswith(
        "program.c:"
    )
    assert _frames(found)[1:] == [(index, *frame) for index in (1, 2) for frame in inlined]
    assert plain.to_pylist() == ["caller", "outer", "outer"]
    assert set(found.space.to_pylist()) == {"user"} and set(found.module.to_pylist()) == {
        str(program)
    }


@pytest.mark.needs("llvm-symbolizer")
def test_lines_from_a_separate_debug_file(tmp_path: Path) -> None:
    program, debug = _build(tmp_path, "-g"), tmp_path / "program.debug"
    subprocess.run(["objcopy", "--only-keep-debug", str(program), str(debug)], check=True)
    subprocess.run(["strip", str(program)], check=True)
    subprocess.run(["objcopy", f"--add-gnu-debuglink={debug}", str(program)], check=True)
    with (
        _running(str(program)) as (pid, at),
        Symbolizer(Mappings.from_columns(Mappings.snapshot(pid))) as symbolizer,
    ):
        frames = _frames(symbolizer.resolve(pid, np.array([at["inlined"] - 1], np.uint64)))
    assert [(name, line) for _, _, name, line, _ in frames] == [
        (name.lower(), f"program.c:{_line_of(name)}") for name in ("INNER", "MIDDLE", "OUTER")
    ]


@pytest.mark.needs("llvm-symbolizer")
def test_an_interrupt_between_queries_does_not_mix_answers(tmp_path: Path) -> None:
    program = _build(tmp_path, "-g")
    with _running(str(program)) as (pid, at):
        mappings = Mappings.from_columns(Mappings.snapshot(pid))
    with Symbolizer(mappings) as symbolizer:
        outer = np.array([at["outer"]], np.uint64)
        first = _frames(symbolizer.resolve(pid, outer))
        # GIVEN the tool was killed from outside WHEN asked again THEN it is started again
        process = symbolizer._lines._process  # type: ignore[union-attr]
        assert process is not None
        process.kill()
        process.wait()
        assert _frames(symbolizer.resolve(pid, outer)) == first
        running = symbolizer._lines._process  # type: ignore[union-attr]
        assert running is not None and running.pid != process.pid
    assert running.poll() is not None


def test_lines_are_left_out_where_there_are_none(tmp_path: Path) -> None:
    program = _build(tmp_path)
    with (
        _running(str(program)) as (pid, at),
        Symbolizer(Mappings.from_columns(Mappings.snapshot(pid))) as symbolizer,
    ):
        found = symbolizer.resolve(pid, np.array([at["outer"]], np.uint64))
    assert _frames(found) == [(0, 0, "outer", "", False)]


@pytest.mark.parametrize("described", [True, False])
def test_a_stripped_program_gives_the_function_or_the_offset(
    tmp_path: Path, described: bool
) -> None:
    flags = [] if described else ["-fno-asynchronous-unwind-tables"]
    program = _build(tmp_path, "-s", *flags)
    with _running(str(program)) as (pid, at):
        mappings = Mappings.from_columns(Mappings.snapshot(pid))
        row = mappings.find(pid, np.array([at["outer"]], np.uint64))[0]
        # (cc puts code at equal addresses and offsets)
        offset = at["outer"] - int(mappings.start[row]) + int(mappings.offset[row])
        addresses = np.array([at["outer"], at["outer"] + 4, at["inlined"] - 1], np.uint64)
        with Symbolizer(mappings) as symbolizer:
            found = symbolizer.functions(pid, addresses)
            resolved = symbolizer.resolve(pid, addresses)
    assert resolved.function.to_pylist() == found.to_pylist()
    if described:
        assert found.to_pylist() == [f"program:{offset:#x}"] * 3
        assert len(set(resolved.function.indices.to_pylist())) == 1
    else:
        assert found.to_pylist()[:2] == [f"program+{offset:#x}", f"program+{offset + 4:#x}"]


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_cxx_names_are_readable(tmp_path: Path) -> None:
    program = _build(tmp_path, source=CXX_SOURCE, compiler="c++")
    with (
        _running(str(program)) as (pid, at),
        Symbolizer(Mappings.from_columns(Mappings.snapshot(pid))) as symbolizer,
    ):
        names = symbolizer.functions(pid, np.array([at["total"]], np.uint64)).to_pylist()
    assert names == ["shop::Basket<int>::total(int)"]
    symbols = default_store().get(str(program))
    assert symbols is not None
    assert [s.demangled for s in symbols.find_name("shop::Basket<int>::total(int)")] == names
    assert names[0] in symbols.nearest("shop::Basket<int>::totol")


def test_program_deleted_while_it_runs(tmp_path: Path) -> None:
    program = _build(tmp_path, "-Wl,--build-id=none")
    with _running(str(program)) as (pid, at):
        program.unlink()
        mappings = Mappings.from_columns(Mappings.snapshot(pid))
        with Symbolizer(mappings) as symbolizer:
            found = symbolizer.resolve(pid, np.array([at["outer"]], np.uint64))
    assert found.function.to_pylist() == ["outer"]
    assert found.module.to_pylist() == [f"{program} (deleted)"]


def test_program_seen_only_in_another_mount_namespace(tmp_path: Path) -> None:
    program = _build(tmp_path)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    script = f"mount -t tmpfs none {hidden} && cp {program} {hidden}/app && exec {hidden}/app"
    probe = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(hidden)], capture_output=True
    )
    if probe.returncode:
        pytest.skip(f"no mount namespaces here: {probe.stderr.decode().strip()}")
    with _running("unshare", "-m", "sh", "-c", script) as (pid, at):
        assert not (hidden / "app").exists()
        mappings = Mappings.from_columns(Mappings.snapshot(pid))
    # It exited, and its file system with it.
    with Symbolizer(mappings) as symbolizer:
        found = symbolizer.resolve(pid, np.array([at["outer"], at["caller"]], np.uint64))
    assert found.function.to_pylist() == ["outer", "caller"]


def test_data_addresses_resolve_to_their_mapping(tmp_path: Path) -> None:
    program = _build(tmp_path)
    with _running(str(program)) as (pid, at):
        mappings = Mappings.from_columns(Mappings.snapshot(pid, executable_only=False))
        code_only = Mappings.from_columns(Mappings.snapshot(pid))
    addresses = np.array([at["counter"], at["heap"], at["stack"]], np.uint64)
    with Symbolizer(mappings) as symbolizer:
        assert symbolizer.modules(pid, addresses).to_pylist() == [str(program), "[heap]", "[stack]"]
        assert symbolizer.functions(pid, addresses[:1]).to_pylist() == ["counter"]
    assert code_only.find(pid, addresses).tolist() == [-1, -1, -1]


def test_one_process_becomes_another_program(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, name in ((first, "alpha"), (second, "omega")):
        folder.mkdir()
        source = C_SOURCE.replace("outer", name)
        if folder is first:
            source = source.replace(
                "return 0;", f'execl("{second}/program", "program", (char *)0); return 1;'
            )
            source = "#include <unistd.h>\n" + source
        _build(folder, "-no-pie", source=source)
    child = subprocess.Popen(
        [str(first / "program")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert child.stdin is not None and child.stdout is not None
    mappings = Mappings()
    address: list[int] = []
    try:
        for _ in range(2):
            words = child.stdout.readline().split()
            address.append(int(words[1], 16))
            mappings.add(Mappings.snapshot(child.pid))
            child.stdin.write(b"\n")
    finally:
        child.stdin.close()
        child.wait(20)
        child.stdout.close()
    times = np.unique(mappings.time)
    with Symbolizer(mappings) as symbolizer:
        names = symbolizer.functions(child.pid, np.array(address, np.uint64), times)
    assert names.to_pylist() == ["alpha", "omega"]


def test_vdso_functions_have_names() -> None:
    mappings = Mappings.from_columns(Mappings.snapshot(os.getpid()))
    if "[vdso]" not in mappings.path:
        pytest.skip("this machine's kernel maps no vdso")
    row = mappings.path.index("[vdso]")
    pages = np.arange(int(mappings.start[row]), int(mappings.end[row]), 16, dtype=np.uint64)
    with Symbolizer(mappings) as symbolizer:
        names = set(symbolizer.functions(os.getpid(), pages).to_pylist())
    assert any("clock_gettime" in name for name in names)


@pytest.mark.needs("kallsyms")
def test_kernel_functions_have_names() -> None:
    with Path("/proc/kallsyms").open() as lines:
        name, address = next(
            (parts[2], int(parts[0], 16))
            for parts in map(str.split, lines)
            if parts[2] in ("vfs_read", "ksys_read")
        )
    with Symbolizer(Mappings()) as symbolizer:
        found = symbolizer.resolve(1, np.array([address + 1], np.uint64))
    assert (found.function.to_pylist(), found.space.to_pylist()) == ([name], ["kernel"])
    assert found.module.to_pylist() == ["[kernel]"]


def test_snapshot_of_no_process() -> None:
    with pytest.raises(TargetGone, match="does not exist"):
        Mappings.snapshot(2**22 + 1)


def _trampoline_python() -> str | None:
    """A Python of 3.12 or newer that has perf trampolines, on PATH or installed by pyenv."""
    root = Path(os.environ.get("PYENV_ROOT", Path("~/.pyenv").expanduser()))
    candidates = [shutil.which(f"python3.{minor}") for minor in range(20, 11, -1)]
    candidates += [
        str(path) for path in sorted(root.glob("versions/3.1[2-9]*/bin/python"), reverse=True)
    ]
    script = "import sys; sys.activate_stack_trampoline('perf'); sys.deactivate_stack_trampoline()"
    for one in filter(None, candidates):
        run = subprocess.Popen(
            [one, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        good = run.wait(20) == 0
        Path(f"/tmp/perf-{run.pid}.map").unlink(missing_ok=True)
        if good:
            return one
    return None


PYTHON = _trampoline_python()


@pytest.mark.needs(*(() if PYTHON else ("python perf trampolines",)))
def test_python_frames_of_perf_trampolines(tmp_path: Path) -> None:
    assert PYTHON is not None
    job = tmp_path / "job.py"
    job.write_text("def work():\n    print('ready', flush=True)\n    input()\nwork()\n")
    child = subprocess.Popen(
        [PYTHON, "-X", "perf", str(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    file = Path(f"/tmp/perf-{child.pid}.map")
    assert child.stdin is not None and child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        mappings = Mappings.from_columns(Mappings.snapshot(child.pid))
        content = file.read_bytes()
        line = next(line for line in content.decode().splitlines() if f"py::work:{job}" in line)
        address = np.array([int(line.split()[0], 16) + 4], np.uint64)
        with Symbolizer(mappings) as live:
            found = live.resolve(child.pid, address)
    finally:
        child.communicate("\n", timeout=20)
        file.unlink(missing_ok=True)
    expected = ("work (job.py)", "python", str(job))
    assert (found.function[0].as_py(), found.space[0].as_py(), found.module[0].as_py()) == expected
    # GIVEN the process and its map are gone WHEN the map's bytes were kept THEN its frames still have names
    with Symbolizer(mappings, perf_maps={child.pid: content}) as later:
        assert later.functions(child.pid, address).to_pylist() == ["work (job.py)"]
    with Symbolizer(mappings, perf_maps={}) as without:
        assert without.functions(child.pid, address).to_pylist() == [f"{int(address[0]):#x}"]
