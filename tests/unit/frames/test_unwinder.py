"""Chains of a real program against libgcc's own unwinder: ways to compile, signals, generated code, late libraries."""

from __future__ import annotations

import platform
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.errors import BadSpec
from workbench.frames.symbols.mappings import Mappings
from workbench.frames.unwind import FRAME_POINTER, Status, Unwinder
from workbench.frames.unwind_tables import UnwindTables
from workbench.native.build import compiler

SOURCE = Path(__file__).parents[2] / "support" / "unwind_target.c"
THROUGH = "void through(void (*f)(void)) { volatile int after = 0; f(); after++; }\n"
NO_FRAME_POINTER = ("-O2", "-fomit-frame-pointer")

pytestmark = pytest.mark.needs("C compiler")


@dataclass
class Captured:
    pid: int
    registers: np.ndarray
    frames: list[int]
    stack: bytes

    def unwind(self, unwinder: Unwinder, length: int | None = None) -> tuple[list[int], int]:
        data = self.stack[:length]
        found = unwinder.unwind(
            np.array([self.pid], np.int32),
            self.registers,
            np.frombuffer(data, np.uint8),
            np.zeros(1, np.int64),
            np.array([len(data)], np.int32),
        )
        assert found.lengths.tolist() == [len(found.addresses)]
        return found.addresses.tolist(), int(found.status[0])


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("unwind")
    made: dict[tuple[str, ...], Path] = {}

    def build(*flags: str) -> Path:
        if flags not in made:
            output = folder / f"target{len(made)}"
            subprocess.run(
                [compiler(), *flags, "-o", output, SOURCE, "-ldl", "-lpthread"], check=True
            )
            made[flags] = output
        return made[flags]

    return build


def _read(pipe: Any, count: int) -> bytes:
    data: bytes = pipe.read(count)
    assert len(data) == count, "the program ended early"
    return data


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def captured(process: subprocess.Popen[bytes]) -> Captured:
    head = struct.unpack("<6Q", _read(process.stdout, 48))
    frames = struct.unpack(f"<{head[4]}Q", _read(process.stdout, head[4] * 8))
    return Captured(
        process.pid, np.array([head[:4]], np.uint64), list(frames), _read(process.stdout, head[5])
    )


def agree(addresses: list[int], frames: list[int]) -> bool:
    """Our callers against backtrace(): return addresses minus one, exact where a signal interrupted."""
    return len(addresses) == len(frames) and all(
        ours in (theirs - 1, theirs) for ours, theirs in zip(addresses[1:], frames[1:], strict=True)
    )


@pytest.fixture
def tables(tmp_path: Path) -> UnwindTables:
    return UnwindTables(tmp_path / "cache")


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(NO_FRAME_POINTER, id="without frame pointers"),
        pytest.param(("-O0", "-fno-omit-frame-pointer"), id="not optimised"),
        pytest.param((*NO_FRAME_POINTER, "-static"), id="static"),
        pytest.param(
            (*NO_FRAME_POINTER, "-no-pie", "-Wl,--strip-all"), id="fixed address, stripped"
        ),
    ],
)
@pytest.mark.parametrize("mode", ["nested", "signal", "realigned"])
def test_chains_equal_backtrace(
    program: Any, tables: UnwindTables, flags: tuple[str, ...], mode: str
) -> None:
    with running(program(*flags), mode) as process:
        sample = captured(process)
        addresses, status = sample.unwind(Unwinder(tables))
    assert status == Status.COMPLETE
    assert len(addresses) > 6
    assert agree(addresses, sample.frames), (
        list(map(hex, addresses)),
        list(map(hex, sample.frames)),
    )


def test_interrupted_address_is_exact(program: Any, tables: UnwindTables) -> None:
    with running(program(*NO_FRAME_POINTER), "signal") as process:
        sample = captured(process)
        addresses, _ = sample.unwind(Unwinder(tables))
    exact = [
        ours
        for ours, theirs in zip(addresses[1:], sample.frames[1:], strict=True)
        if ours == theirs
    ]
    assert len(exact) == 1, "only the frame that the signal interrupted"


def test_alternate_stack_ends_at_the_trampoline(program: Any, tables: UnwindTables) -> None:
    with running(program(*NO_FRAME_POINTER), "altstack") as process:
        sample = captured(process)
        addresses, status = sample.unwind(Unwinder(tables))
    # the interrupted frame's address is in the signal frame; its stack is elsewhere and was not copied
    assert status in (Status.TRUNCATED, Status.BAD_MEMORY)
    assert agree(addresses, sample.frames[: len(addresses)]) and len(addresses) >= 5


def test_program_without_any_table_by_frame_pointers(program: Any, tables: UnwindTables) -> None:
    flags = (
        "-O1",
        "-fno-omit-frame-pointer",
        "-fno-asynchronous-unwind-tables",
        "-fno-unwind-tables",
    )
    with running(program(*flags), "realigned") as process:
        sample = captured(process)
        addresses, status = sample.unwind(Unwinder(tables))
    assert status == Status.COMPLETE | FRAME_POINTER
    # capture, three times nested, realigned, main, two of the C library's start, _start
    assert len(addresses) == 9


@pytest.mark.parametrize("mode", ["jit", "trampoline"])
def test_generated_code(program: Any, tables: UnwindTables, mode: str) -> None:
    with running(program(*NO_FRAME_POINTER), mode) as process:
        sample = captured(process)
        unwinder = Unwinder(tables)
        addresses, status = sample.unwind(unwinder)
        columns = Mappings.snapshot(process.pid)
        columns["path"] = [path or "//anon" for path in columns["path"]]  # as perf names it
        told = Unwinder(tables)
        told.set_mappings(process.pid, columns)
        assert sample.unwind(told) == (addresses, status)
        anonymous = [
            row
            for row in zip(
                *(Mappings.snapshot(process.pid)[name] for name in ("start", "end", "path")),
                strict=True,
            )
            if not row[2]
        ]
    by_frame_pointer = mode == "jit" or platform.machine() != "x86_64"
    assert status == Status.COMPLETE | (FRAME_POINTER if by_frame_pointer else 0)
    assert any(low <= addresses[1] < high for low, high, _ in anonymous)
    # from there on what backtrace() said in the function that called the generated code
    assert [a + 1 for a in addresses[3:]] == sample.frames[1:]


def test_library_loaded_after_the_first_look(
    program: Any, tables: UnwindTables, tmp_path: Path
) -> None:
    (tmp_path / "through.c").write_text(THROUGH)
    library = tmp_path / "through.so"
    subprocess.run(
        [compiler(), *NO_FRAME_POINTER, "-shared", "-fPIC", "-o", library, tmp_path / "through.c"],
        check=True,
    )
    with running(program(*NO_FRAME_POINTER), "library", library) as process:
        unwinder = Unwinder(tables)
        while not any(e[3].endswith("/libc.so.6") for e in _entries(unwinder, process.pid)):
            time.sleep(0.001)
        process.stdin.write(b"g")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        sample = captured(process)
        addresses, status = sample.unwind(unwinder)
        assert any(e[3] == str(library) for e in unwinder._processes[process.pid].entries)
    assert status == Status.COMPLETE
    assert agree(addresses, sample.frames)


def _entries(unwinder: Unwinder, pid: int) -> list[Any]:
    unwinder.refresh(pid)
    return unwinder._processes[pid].entries


def test_process_that_exited_is_unwound_by_its_recorded_mappings(
    program: Any, tables: UnwindTables
) -> None:
    with running(program(*NO_FRAME_POINTER), "nested") as process:
        sample = captured(process)
        columns = Mappings.snapshot(process.pid)
    later = Unwinder(tables, live=False)
    later.set_mappings(sample.pid, columns)
    addresses, status = sample.unwind(later)
    assert status == Status.COMPLETE and agree(addresses, sample.frames)
    # a file that was built anew since is not used
    columns["build_id"] = [
        "00" * 20 if p.startswith("/") else i
        for p, i in zip(columns["path"], columns["build_id"], strict=True)
    ]
    later.set_mappings(sample.pid, columns)
    assert sample.unwind(later)[1] & 0x0F != Status.COMPLETE
    later.forget(sample.pid)
    assert sample.unwind(later) == ([int(sample.registers[0, 0])], Status.NO_MAPPING)


def test_deleted_program_is_read_through_the_kernel(
    program: Any, tables: UnwindTables, tmp_path: Path
) -> None:
    copy = tmp_path / "short-lived"
    copy.write_bytes(program(*NO_FRAME_POINTER).read_bytes())
    copy.chmod(0o755)
    with running(copy, "nested") as process:
        sample = captured(process)
        copy.unlink()
        addresses, status = sample.unwind(Unwinder(tables))
    assert status == Status.COMPLETE and agree(addresses, sample.frames)


def test_short_copy_depth_and_batch_of_many(program: Any, tables: UnwindTables) -> None:
    with running(program(*NO_FRAME_POINTER), "nested") as process:
        sample = captured(process)
        whole, _ = sample.unwind(Unwinder(tables))
        short, status = sample.unwind(Unwinder(tables), 100)
        assert status == Status.TRUNCATED and short == whole[: len(short)]
        cut, status = sample.unwind(Unwinder(tables, max_depth=3))
        assert (cut, status) == (whole[:3], Status.DEPTH)
        n = 20_000  # more than one chunk
        structured = np.zeros(n, [("ip", "<u8"), ("sp", "<u8"), ("fp", "<u8")])
        for k, name in enumerate(structured.dtype.names or ()):
            structured[name] = sample.registers[0, k]
        many = Unwinder(tables).unwind(
            np.full(n, process.pid, np.int32),
            structured,
            np.frombuffer(sample.stack, np.uint8),
            np.zeros(n, np.int64),
            np.full(n, len(sample.stack), np.int32),
        )
    assert (many.addresses.reshape(n, -1) == np.array(whole, np.uint64)).all()
    assert (many.status == Status.COMPLETE).all()


def test_forked_child_that_is_gone_is_unwound_by_its_parents_mappings(
    program: Any, tables: UnwindTables
) -> None:
    with running(program(*NO_FRAME_POINTER), "nested") as process:
        sample = captured(process)
        unwinder = Unwinder(tables)
        unwinder.prepare(process.pid)
    child = 2**22 + 1  # above any process id
    unwinder.inherit(child, process.pid)
    sample.pid = child
    addresses, status = sample.unwind(unwinder)
    assert status == Status.COMPLETE and agree(addresses, sample.frames)


def test_processes_known_are_bounded(
    program: Any, tables: UnwindTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.frames.unwind.MAX_PROCESSES", 3)
    with running(program(*NO_FRAME_POINTER), "nested") as process:
        sample = captured(process)
        unwinder = Unwinder(tables)
        for pid in range(2**22 + 1, 2**22 + 9):
            unwinder.unwind(
                np.array([pid], np.int32), sample.registers, np.zeros(0, np.uint8), np.zeros(1, np.int64),
                np.zeros(1, np.int32),
            )  # fmt: skip
        assert len(unwinder._processes) <= 3
        assert sample.unwind(unwinder)[1] == Status.COMPLETE


def test_prepare_loads_all_tables(program: Any, tables: UnwindTables) -> None:
    with running(program(*NO_FRAME_POINTER), "nested") as process:
        captured(process)
        rows = Unwinder(tables).prepare(process.pid)
    assert rows > 10_000 and tables.built >= 4, "program, libc, libgcc, loader, vdso"


def test_arguments_that_do_not_fit(tables: UnwindTables) -> None:
    unwinder = Unwinder(tables, live=False)
    none = np.zeros(0, np.uint8)
    empty = unwinder.unwind(
        np.zeros(0, np.int32),
        np.zeros((0, 3), np.uint64),
        none,
        np.zeros(0, np.int64),
        np.zeros(0, np.int32),
    )
    assert [len(column) for column in empty] == [0, 0, 0]
    with pytest.raises(BadSpec, match="pass one of each"):
        unwinder.unwind(
            np.zeros(2, np.int32),
            np.zeros((1, 3), np.uint64),
            none,
            np.zeros(1, np.int64),
            np.zeros(1, np.int32),
        )
    for start, end in (([0, 10], [20, 30]), ([5], [5])):
        paths = [""] * len(start)
        with pytest.raises(BadSpec, match="overlap or are empty"):
            unwinder.set_mappings(
                1, {"start": start, "end": end, "offset": [0] * len(start), "path": paths}
            )
