"""The table of GPU API functions, the calling conventions, and rows made from records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.collectors.gpu.apis import DRIVER, LAYOUTS, OPENCL, RUNTIME
from workbench.collectors.gpu.kernels import KernelNames
from workbench.collectors.gpu.libraries import api_sites, candidates
from workbench.collectors.gpu.rows import Rows
from workbench.collectors.gpu.signature import LAYERS, MAX_FIELDS, Api, all_apis
from workbench.collectors.modules import Module
from workbench.errors import MissingCapability
from workbench.objects.model import builtin

MACHINES = ("x86_64", "aarch64")


def api(name: str, machine: str) -> Api:
    return next(one for one in all_apis(machine) if one.name == name)


def places(name: str, machine: str) -> dict[str, tuple[int, int, int, int]]:
    """(source, base, offset, shift) of each role."""
    return {f.role: (f.source, f.base, f.offset, f.shift) for f in api(name, machine).fields}


@pytest.mark.parametrize("machine", MACHINES)
def test_every_line_is_understood(machine: str) -> None:
    apis = all_apis(machine)
    names = [one.name for one in apis]
    assert len(names) == len(set(names)) < 1 << 16
    lines = sum(len(table.strip().splitlines()) for table in (RUNTIME, DRIVER, OPENCL))
    assert lines < len(apis) <= 3 * lines
    for one in apis:
        assert len(one.fields) <= MAX_FIELDS
        assert one.layer in LAYERS
        if one.kind in ("alloc", "free", "retain"):
            assert one.position("pointer") >= 0 or one.result == "handle", one.name
        if one.kind == "name":
            assert one.position("text") >= 0 and (one.position("pointer") >= 0 or one.result == "handle")
        if one.result in ("handle", "address") and one.name != "clSVMAlloc":
            assert one.position("code") >= 0, one.name
    for size, _ in LAYOUTS.values():
        assert size % 8 == 0


def test_an_unknown_processor_is_refused() -> None:
    with pytest.raises(MissingCapability, match="calling convention of vax"):
        all_apis("vax")


def test_packed_functions_have_the_layout_of_the_program() -> None:
    dtype = builtin("gpu").btf.dtype(builtin("gpu").maps["apis"].value_type)
    packed = np.frombuffer(b"".join(one.pack() for one in all_apis("x86_64")), dtype)
    for row, one in zip(packed, all_apis("x86_64"), strict=True):
        assert int(row["count"]) == len(one.fields) and int(row["scale"]) == one.scale
        assert LAYERS[int(row["layer"])] == one.layer
        for cell, field in zip(row["fields"], one.fields, strict=False):
            got = tuple(int(cell[name]) for name in ("offset", "base", "source", "shift", "size", "flags", "inner"))
            assert got == (field.offset, field.base, field.source, field.shift, field.size, field.flags, field.inner)


def test_positions_on_x86_64() -> None:
    """cudaLaunchKernel(func, dim3 grid, dim3 block, args, shared, stream): rdi, rsi:rdx, rcx:r8, r9, stack, stack."""
    di, si, dx, cx, r8, sp = 112, 104, 96, 88, 72, 152
    found = places("cudaLaunchKernel", "x86_64")
    assert found == {
        "pointer": (1, di, 0, 0),
        "grid_x": (1, si, 0, 0), "grid_y": (1, si, 0, 32), "grid_z": (1, dx, 0, 0),
        "block_x": (1, cx, 0, 0), "block_y": (1, cx, 0, 32), "block_z": (1, r8, 0, 0),
        "stream": (2, sp, 16, 0),
    }  # fmt: skip
    driver = places("cuLaunchKernel", "x86_64")
    assert driver["block_z"] == (2, sp, 8, 0) and driver["stream"] == (2, sp, 24, 0)
    assert places("clEnqueueMapBuffer", "x86_64")["code"] == (2, sp, 32, 0)
    by_value = [(f.source, f.base, f.offset) for f in api("cudaMemset3D", "x86_64").fields]
    assert by_value == [(2, sp, 8), (2, sp, 40), (2, sp, 48), (2, sp, 56)]


def test_positions_on_aarch64() -> None:
    """The same function: x0, x1:x2, x3:x4, x5, x6, x7; large structs by a pointer to a copy."""
    found = places("cudaLaunchKernel", "aarch64")
    assert found == {
        "pointer": (1, 0, 0, 0),
        "grid_x": (1, 8, 0, 0), "grid_y": (1, 8, 0, 32), "grid_z": (1, 16, 0, 0),
        "block_x": (1, 24, 0, 0), "block_y": (1, 24, 0, 32), "block_z": (1, 32, 0, 0),
        "stream": (1, 56, 0, 0),
    }  # fmt: skip
    assert places("cuLaunchKernel", "aarch64")["stream"] == (2, 248, 0, 0)
    by_value = [(f.source, f.base, f.offset) for f in api("cudaMemset3D", "aarch64").fields]
    assert by_value == [(2, 0, 0), (2, 16, 0), (2, 16, 8), (2, 16, 16)]


def records(name: str, apis: tuple[Api, ...], values: list[int], **more: Any) -> dict[str, np.ndarray[Any, Any]]:
    number = next(i for i, one in enumerate(apis) if one.name == name)
    row = np.zeros((1, MAX_FIELDS), np.uint64)
    row[0, : len(values)] = values
    head = {"time": 5, "duration": 7, "bytes": 0, "pointer": 0, "pid": 3, "tid": 4, "cpu": 1, "flags": 0, "code": 0}
    columns = {key: np.array([value], np.int64) for key, value in (head | more).items()}
    return {
        **columns, "api": np.array([number]), "values": row, "comm": np.array([b"x"]),
        "pointer": columns["pointer"].astype(np.uint64), "code": columns["code"].astype(np.int32),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dimensions", "local", "expected"),
    [
        (1, (64, 9, 9), (100, 1, 1, 64, 1, 1)),
        (2, (64, 9, 9), (100, 200, 1, 64, 9, 1)),
        (3, (0, 0, 0), (100, 200, 300, 0, 0, 0)),
        (1, (0, 0, 0), (100, 1, 1, 0, 0, 0)),
    ],
)
def test_dimensions_that_a_launch_does_not_have_are_one(
    dimensions: int, local: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    apis = all_apis("x86_64")
    head = records("clEnqueueNDRangeKernel", apis, [1, 2, dimensions, 100, 200, 300, *local])
    columns = Rows(apis, KernelNames()).calls(head, None)
    names = [f"{what}_{axis}" for what in ("grid", "block") for axis in "xyz"]
    assert tuple(int(columns[name][0]) for name in names) == expected


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [(1, 1, "host-to-host"), (1, 2, "host-to-device"), (2, 1, "device-to-host"), (3, 2, "device-to-device")],
)
def test_direction_by_memory_types(source: int, target: int, expected: str) -> None:
    apis = all_apis("x86_64")
    head = records("cuMemcpy2D_v2", apis, [source, 0xAAA, target, 0xBBB, 10, 10], pointer=0xBBB)
    columns = Rows(apis, KernelNames()).calls(head, None)
    codes, texts = columns["direction"]
    assert texts[codes[0]] == expected
    assert int(columns["pointer"][0]) == (0xAAA if expected == "device-to-host" else 0xBBB)


def test_a_handle_that_comes_back_with_another_name() -> None:
    names = KernelNames()
    layer = np.array([2, 2, 2])
    names.add(
        {
            "time": np.array([10, 100, 5]),
            "pid": np.array([1, 1, 1]),
            "handle": np.array([7, 7, 8], np.uint64),
            "text": np.array([b"first", b"second", b"_Z5scalePfi"]),
        },
        layer,
    )
    codes, texts = names.column(
        np.array([True, True, True, False, True]),
        np.array([50, 100, 150, 150, 9]),
        np.array([1, 1, 1, 1, 1], np.int32),
        np.array([2, 2, 2, 2, 2]),
        np.array([7, 7, 7, 7, 8], np.uint64),
    )
    assert [texts[code] for code in codes] == ["first", "second", "second", "", "scale(float*, int)"]


def test_files_that_are_no_libraries_have_no_functions(tmp_path: Path) -> None:
    text = tmp_path / "libcudart.so.13"
    text.write_bytes(b"\x7fELF and then nothing of use: cudaMalloc cudaLaunchKernel" * 3)
    assert api_sites(Module(str(text), str(text)), all_apis(), LAYERS) == ([], [])
    empty = tmp_path / "libOpenCL.so.1"
    empty.touch()
    assert api_sites(Module(str(empty), str(empty)), all_apis(), LAYERS) == ([], [])
    gone = str(tmp_path / "gone")
    assert api_sites(Module(gone, gone), all_apis(), LAYERS) == ([], [])


def test_candidates_have_the_usual_names_and_appear_once() -> None:
    found = candidates(None, "", LAYERS)
    assert len({module.place for module in found}) == len(found)
    assert all(Path(module.place).name.startswith(("libcudart", "libcuda.so", "libOpenCL")) for module in found)


def test_the_documented_matrix_is_the_table() -> None:
    """docs/gpu.md lists every function with its kind, and calls tested only what a test calls."""
    root = Path(__file__).parents[3]
    rows = {}
    for line in (root / "docs" / "gpu.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].startswith(("`c", "`__c")):
            rows[cells[0].strip("`")] = cells[1:]
    table = {}
    for text in (RUNTIME, DRIVER, OPENCL):
        for line in text.strip().splitlines():
            kind, name = line.split()[:2]
            table[name] = kind.partition(":")[0]
    assert rows.keys() == table.keys()
    support = root / "tests" / "support" / "gpu"
    called = "".join((support / name).read_text() for name in ("work.c", "driver_work.c"))
    recorded = (root / "tests" / "integration" / "collectors" / "test_gpu.py").read_text()
    program = (support / "opencl_work.py").read_text()
    for name, (kind, _, tested) in rows.items():
        assert kind.split(" ")[0] == table[name], name
        assert tested.startswith("arguments"), name
        assert ("stub" in tested) == (f"{name}(" in called or f"{name}_pt" in called), name
        if "PoCL" in tested:
            assert f'"{name}"' in recorded or name in ("clCreateKernel", "clFinish"), name
    assert "cl.Kernel(" in program and "queue.finish()" in program
