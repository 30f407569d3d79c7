"""The gpu collector on real OpenCL kernels (PoCL) and on stub CUDA libraries whose every number is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gpu_everything import Expected, build
from gpu_support import SOURCES, programs, record_command

from workbench.collectors.gpu.kernels import KernelNames
from workbench.collectors.modules import Modules
from workbench.collectors.recorder import Recorder
from workbench.collectors.target import HeldCommand
from workbench.errors import BadSpec, UnknownSymbol, WorkbenchError

pytestmark = pytest.mark.needs("uprobe", "ring buffer", "C compiler")

LAUNCHES = 4000
SCALE, UNNAMED = "scale(float*, int)", "unnamed"


def losses(recording: Any) -> dict[str, int]:
    """What was lost, without the zeros."""
    frame = recording.losses
    return {row.cause: row.lost for row in frame.itertuples() if row.lost}


def live_bytes(calls: pd.DataFrame) -> dict[str, int]:
    """Bytes allocated and not freed, per layer."""
    sign = calls["kind"].map({"alloc": 1, "free": -1}).astype(float).fillna(0).astype(int)
    return (calls["bytes"] * sign).groupby(calls["layer"].astype(str)).sum().to_dict()


def check_runtime_work(calls: pd.DataFrame, truth: dict[str, Any]) -> None:
    """Everything that tests/support/gpu/work.c did is there, argument by argument."""
    calls = calls[(calls["layer"] == "runtime") & (calls["api"] != "__cudaRegisterFunction")]
    assert len(calls) == truth["calls"]
    assert int((calls["result"] != 0).sum()) == truth["failures"] == 6
    assert (calls.loc[calls["result"] != 0, "bytes"] == 0).all()
    by_kind = calls.groupby(calls["kind"].astype(str))["bytes"].sum()
    assert by_kind["alloc"] == truth["allocated"] == (1 << 20) + 4096 + 1000 + 512 * 30 + 512 * 20 * 3
    assert by_kind["free"] == truth["freed"] == truth["allocated"] - 512 * 30
    assert by_kind["copy"] == truth["copied"] == (1 << 20) + 3000 + 500 + 77 + 2000 + 6000
    assert by_kind["fill"] == truth["filled"] == 12345 + 6000
    launches = calls[(calls["kind"] == "launch") & (calls["result"] == 0)]
    assert len(launches) == truth["launches"] == 2 * LAUNCHES + 2
    ordinary = launches[launches["api"] == "cudaLaunchKernel"]
    assert ordinary["grid_x"].tolist() == list(range(1, LAUNCHES + 1))
    assert set(ordinary[["grid_y", "grid_z", "block_x", "block_y", "block_z"]].itertuples(index=False, name=None)) == {
        (2, 3, 32, 4, 5)
    }
    assert set(ordinary["stream"]) == {0x5150}
    assert set(ordinary["kernel"].astype(str)) == {SCALE}
    per_thread = launches[launches["api"] == "cudaLaunchKernel_ptsz"]
    assert len(per_thread) == LAUNCHES
    assert set(per_thread[["grid_x", "grid_y", "grid_z", "stream"]].itertuples(index=False, name=None)) == {
        (65535, 65534, 65533, 0)
    }
    by_struct = launches[launches["api"] == "cudaLaunchKernelExC"].iloc[0]
    assert [by_struct[f"{what}_{axis}"] for what in ("grid", "block") for axis in "xyz"] == [7, 8, 9, 10, 11, 2]
    assert by_struct["stream"] == 0x5150 and by_struct["kernel"] == SCALE
    copies = calls[(calls["kind"] == "copy") & (calls["result"] == 0)]
    assert copies["api"].tolist() == [
        "cudaMemcpy", "cudaMemcpy_ptds", "cudaMemcpyAsync", "cudaMemcpyAsync_ptsz", "cudaMemcpy2D", "cudaMemcpy3D",
    ]  # fmt: skip
    assert copies["direction"].tolist() == [
        "host-to-device", "device-to-host", "device-to-device", "default", "host-to-device", "host-to-device",
    ]  # fmt: skip
    assert (copies["pointer"].iloc[[0, 1, 4]] == truth["a"]).all(), "the device's side of a copy, whichever it is"
    # Synchronising takes the time that the stub spun inside it.
    waited = calls.loc[calls["kind"] == "sync", "duration"]
    assert len(waited) == 3 and int(waited.sum()) >= truth["spun"] > 2000 * 2 * LAUNCHES
    others = calls.loc[calls["kind"] == "launch", "duration"]
    assert float(others.median()) < 2_000_000


def test_a_shared_runtime_is_recorded_call_by_call(tmp_path: Path) -> None:
    recording, truth = record_command("gpu", [str(programs().shared)], tmp_path)
    calls = recording.gpu_calls
    check_runtime_work(calls, truth)
    per_thread = calls[calls["api"] == "cudaLaunchKernel_ptsz"]
    assert set(per_thread["kernel"].astype(str)) == {UNNAMED}, "an unregistered kernel is known by its symbol"
    assert losses(recording) == {}
    assert live_bytes(calls) == {"runtime": truth["allocated"] - truth["freed"]}
    memory = recording.gpu_memory
    assert memory[["api", "space", "pointer", "bytes"]].values.tolist() == [
        ["cudaMallocPitch", "device", truth["leak"], 512 * 30]
    ]
    row = calls[calls["time"] == memory["time"].iloc[0]]
    assert row["api"].tolist() == ["cudaMallocPitch"]
    counts = recording.gpu_counts.set_index("api")
    assert int(counts.loc["cudaLaunchKernel", "calls"]) == LAUNCHES + 1
    assert int(counts.loc["cudaLaunchKernel", "errors"]) == 1
    assert int(counts.loc["cudaMalloc", "bytes"]) == 1 << 20
    overhead = recording.overhead
    assert int(overhead["hits"].sum()) == int(counts["calls"].sum())
    assert (overhead["cost_low"] <= overhead["cost"]).all() and (overhead["cost"] > 0).all()


def test_an_unregistered_kernel_of_a_process_that_has_exited_has_its_name() -> None:
    held = HeldCommand((str(programs().shared),))
    try:
        modules = Modules(held.pid)
        main = modules.main
        assert main is not None and main.bias is not None
        address = main.bias + main.symbols.find_name("unnamed")[0].address
        names = KernelNames()
        names.remember(modules)
    finally:
        held.kill()
    launch, one = np.ones(1, bool), np.zeros(1, np.int64)
    codes, texts = names.column(
        launch, one, np.full(1, held.pid, np.int32), one, np.full(1, address, np.uint64)
    )
    assert [texts[code] for code in codes] == [UNNAMED]


def test_a_static_runtime_is_found_by_its_local_symbols(tmp_path: Path) -> None:
    recording, truth = record_command("gpu:runtime", [str(programs().static)], tmp_path)
    check_runtime_work(recording.gpu_calls, truth)
    assert losses(recording) == {}
    libraries = recording.manifest.notes["gpu"]["libraries"]
    assert list(libraries) == [str(programs().static)]


def test_a_stripped_static_runtime_says_what_to_do(tmp_path: Path) -> None:
    command = [str(programs().stripped)]
    with pytest.raises(UnknownSymbol) as error:
        record_command("gpu:runtime,wait=no", command, tmp_path)
    assert "libcudart*.so*" in error.value.message and "gpu:driver" in error.value.hint
    assert not (tmp_path / "recording").exists()
    with pytest.raises(UnknownSymbol, match="none of the API functions"):
        record_command(f"gpu:runtime,library={programs().stripped}", command, tmp_path)
    recording, _ = record_command("gpu:runtime", command, tmp_path)
    assert len(recording.gpu_calls) == 0
    assert any("no GPU library was ever mapped" in cause for cause in recording.losses["cause"])


def test_counting_gives_the_same_numbers_without_rows(tmp_path: Path) -> None:
    recording, truth = record_command("gpu,count=yes", [str(programs().shared)], tmp_path)
    assert "gpu_calls" not in recording.frames
    counts = recording.gpu_counts
    by_kind = counts.groupby(counts["kind"].astype(str))[["calls", "bytes", "errors"]].sum()
    assert by_kind.loc["launch", "calls"] == truth["launches"] + 1
    assert by_kind.loc["free", "bytes"] == truth["freed"]
    assert int(by_kind["errors"].sum()) == truth["failures"]
    assert int(recording.gpu_memory["bytes"].sum()) == truth["allocated"] - truth["freed"]


@pytest.mark.parametrize("how", ["multi", "events"])
def test_the_driver_api(tmp_path: Path, how: str) -> None:
    recording, truth = record_command(f"gpu:driver,attach={how}", [str(programs().driver)], tmp_path)
    assert recording.manifest.notes["gpu"]["attach"] == how
    calls = recording.gpu_calls
    assert len(calls) == truth["calls"] and set(calls["layer"]) == {"driver"}
    assert int((calls["result"] != 0).sum()) == truth["failures"] == 2
    by_kind = calls.groupby(calls["kind"].astype(str))["bytes"].sum()
    assert by_kind["alloc"] == truth["allocated"] == (1 << 16) + 5000
    assert by_kind["free"] == truth["freed"] == 1 << 16
    assert by_kind["copy"] == truth["copied"] == 60000 + 20000 + 300
    assert by_kind["fill"] == truth["filled"] == 4000
    launches = calls[calls["kind"] == "launch"]
    assert set(launches["kernel"].astype(str)) == {"matmul"} and len(launches) == 1001
    shape = [f"{what}_{axis}" for what in ("grid", "block") for axis in "xyz"]
    assert launches.iloc[0][[*shape, "stream"]].tolist() == [11, 12, 13, 14, 5, 6, 0x77]
    assert launches.iloc[-1][[*shape, "stream"]].tolist() == [3, 4, 5, 6, 7, 8, 0x77]
    assert calls.loc[calls["kind"] == "copy", "direction"].tolist() == [
        "host-to-device", "device-to-host", "device-to-host",
    ]  # fmt: skip
    assert recording.gpu_memory["pointer"].tolist() == [truth["leak"]]
    assert losses(recording) == {}


def test_a_runtime_on_a_driver_counts_each_operation_once_without_the_nested_rows(tmp_path: Path) -> None:
    recording, truth = record_command("gpu:runtime+driver", [str(programs().layered)], tmp_path)
    calls = recording.gpu_calls
    assert set(calls["layer"]) == {"runtime", "driver"}
    assert (calls["nested"] == (calls["layer"] == "driver")).all()
    once = calls[~calls["nested"]]
    check_runtime_work(once, truth)
    leak = truth["allocated"] - truth["freed"]
    assert live_bytes(calls) == {"runtime": leak, "driver": leak}
    inner = calls[calls["nested"] & (calls["kind"] == "launch")]
    assert len(inner) == 2 * LAUNCHES + 1, "all but the graph"


def test_stacks_end_in_the_function_and_name_its_caller(tmp_path: Path) -> None:
    for kind in ("yes", "fp"):
        folder = tmp_path / kind
        folder.mkdir()
        recording, truth = record_command(f"gpu:runtime,stacks={kind}", [str(programs().static)], folder)
        calls = recording.gpu_calls
        check_runtime_work(calls, truth)
        stacks = recording.stacks
        one = calls[calls["api"] == "cudaMallocPitch"]["stack"].iloc[0]
        names = stacks[stacks["stack"] == one].sort_values("depth")["function"].tolist()
        assert names[0] == "cudaMallocPitch"
        assert "stack of an API call" in recording.overhead["probe"].tolist()
        if kind == "yes":
            assert names[1:3] == ["run", "main"], names


def wait_for(condition: Any, what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


def later(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    made = programs()
    return subprocess.Popen(
        [str(made.later), str(made.plugin)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )


def say(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()


def test_a_library_loaded_later_is_hooked_when_it_is_mapped(tmp_path: Path) -> None:
    process = later(dict(os.environ))
    try:
        recorder = Recorder(["gpu"], output=tmp_path / "recording", pid=process.pid).start()
        collector: Any = recorder.collectors[0]
        assert collector.notes()["gpu"]["libraries"] == {}
        say(process)
        wait_for(lambda: collector.notes()["gpu"]["libraries"], "the library to be hooked")
        # Bookkeeping comes before the links: they are there once the drain that made them is over.
        before = collector.drain
        drained: list[int] = []
        collector.drain = lambda: (drained.append(1), before())[1]
        wait_for(lambda: len(drained) > 1, "a drain")
        say(process)
        assert process.stdout is not None
        truth = json.loads(process.stdout.readline())
        recording = recorder.result()
    finally:
        process.kill()
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]
        process.stdout.close()  # type: ignore[union-attr]
    check_runtime_work(recording.gpu_calls, truth)
    assert list(recording.manifest.notes["gpu"]["libraries"]) == [str(programs().cudart)]


def test_a_library_on_the_search_path_is_hooked_before_it_is_mapped(tmp_path: Path) -> None:
    process = later({**os.environ, "LD_LIBRARY_PATH": str(programs().folder)})
    with Recorder(["gpu"], output=tmp_path / "recording", pid=process.pid) as recorder:
        answer, _ = process.communicate(b"go\ngo\n")
        recorder.wait(20)
    check_runtime_work(recorder.recording.gpu_calls, json.loads(answer))
    assert losses(recorder.recording) == {}


def test_a_named_library_is_hooked_before_it_is_mapped(tmp_path: Path) -> None:
    process = later(dict(os.environ))
    spec = f"gpu,library={programs().cudart}"
    with Recorder([spec], output=tmp_path / "recording", pid=process.pid) as recorder:
        answer, _ = process.communicate(b"go\ngo\n")
        recorder.wait(20)
    check_runtime_work(recorder.recording.gpu_calls, json.loads(answer))


def test_only_the_target_is_recorded(tmp_path: Path) -> None:
    process = later({**os.environ, "LD_LIBRARY_PATH": str(programs().folder)})
    with Recorder(["gpu"], output=tmp_path / "recording", pid=process.pid) as recorder:
        other = subprocess.run([str(programs().shared)], check=True, capture_output=True)
        answer, _ = process.communicate(b"go\ngo\n")
        recorder.wait(20)
    assert other.stdout and answer
    assert set(recorder.recording.gpu_calls["pid"]) == {process.pid}


def test_children_are_followed(tmp_path: Path) -> None:
    script = f"read word; {programs().later} {programs().plugin}; exit $?"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(programs().folder)}
    process = subprocess.Popen(
        ["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    with Recorder(["gpu"], output=tmp_path / "recording", pid=process.pid) as recorder:
        collector: Any = recorder.collectors[0]
        assert collector.notes()["gpu"]["processes"] == 1
        say(process)
        wait_for(lambda: collector.notes()["gpu"]["processes"] == 2, "the child to be hooked")
        answer, _ = process.communicate(b"go\ngo\n")
        recorder.wait(20)
    calls = recorder.recording.gpu_calls
    check_runtime_work(calls, json.loads(answer))
    assert process.pid not in set(calls["pid"])


def test_the_whole_machine(tmp_path: Path) -> None:
    with Recorder(
        [f"gpu:runtime,library={programs().cudart}"], output=tmp_path / "recording", machine=True
    ) as recorder:
        truth = json.loads(subprocess.run([str(programs().shared)], check=True, capture_output=True).stdout)
    check_runtime_work(recorder.recording.gpu_calls, truth)


def test_specifications() -> None:
    from workbench.collectors.registry import make

    for text, words in {
        "gpu:metal": "no layer 'metal'",
        "gpu,stacks=maybe": "stacks is 'maybe'",
        "gpu,count=yes,stacks=fp": "counting takes no stacks",
        "gpu,libary=x": "did you mean 'library'",
    }.items():
        with pytest.raises(BadSpec) as error:
            make(text)
        assert words in str(error.value)
    assert make("gpu:opencl+runtime").layers == ("runtime", "opencl")  # type: ignore[attr-defined]


def test_a_library_without_api_functions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownSymbol, match="none of the API functions"):
        Recorder(["gpu,library=libc"], output=tmp_path / "r", command=["/bin/true"]).start()
    with pytest.raises(WorkbenchError, match="no program or library"):
        Recorder(["gpu,library=/nowhere/libcudart.so"], output=tmp_path / "r", command=["/bin/true"]).start()


@pytest.mark.needs("OpenCL")
def test_this_very_process(tmp_path: Path) -> None:
    import pyopencl as cl

    context = cl.Context([cl.get_platforms()[0].get_devices()[0]])
    with Recorder(["gpu:opencl,wait=no"], output=tmp_path / "recording", pid=os.getpid()) as recorder:
        cl.Buffer(context, cl.mem_flags.READ_WRITE, 777).release()
    calls = recorder.recording.gpu_calls
    assert calls[["api", "bytes"]].values.tolist() == [["clCreateBuffer", 777], ["clReleaseMemObject", 777]]
    assert set(calls["pid"]) == {os.getpid()}


DIRECTIONS = ("host-to-host", "host-to-device", "device-to-host", "device-to-device", "default")


def direction_of(one: Expected) -> str:
    """Direction that a row must show."""
    if one.kind != "copy":
        return ""
    if "direction" in one.roles:
        return DIRECTIONS[one.roles["direction"]]
    if "from" in one.roles:
        return DIRECTIONS[2 * (one.roles["from"] != 1) + (one.roles["to"] != 1)]
    return one.detail


def test_every_function_of_the_table_with_every_argument(tmp_path: Path) -> None:
    program, expected = build(tmp_path)
    recording = Recorder(["gpu"], output=tmp_path / "recording", command=[str(program)]).run()
    assert losses(recording) == {}
    counts = recording.gpu_counts.set_index("api")
    assert set(counts.index) == {one.name for one in expected}
    assert (counts["calls"] == 2).all()
    calls = recording.gpu_calls
    rows = [one for one in expected if one.kind != "name"]
    assert calls["api"].tolist() == [one.name for one in rows] * 2
    good, failed = calls.iloc[: len(rows)], calls.iloc[len(rows) :]
    assert (good["result"] == 0).all()
    assert failed["result"].tolist() == [one.code for one in rows]
    assert (failed.loc[failed["result"] != 0, "bytes"] == 0).all()
    sizes = [f"{what}_{axis}" for what in ("grid", "block") for axis in "xyz"]
    for one, row in zip(rows, good.itertuples(), strict=True):
        assert (row.layer, row.direction) == (one.layer, direction_of(one)), one
        assert row.bytes == (one.bytes if one.kind != "free" else row.bytes), one
        side = "source" if row.direction == "device-to-host" and "source" in one.roles else "pointer"
        assert row.pointer == one.roles.get(side, 0), one
        assert row.stream == one.roles.get("stream", 0), one
        assert [getattr(row, name) for name in sizes] == [one.roles.get(name, 0) for name in sizes], one
    names = {one.roles["pointer"]: f"kernel_{i}" for i, one in enumerate(expected) if one.kind == "name"}
    assert len(names) == sum(one.kind == "name" for one in expected)
    # Nothing that was allocated has the address of anything that was freed; arrays and images have no known size.
    live = recording.gpu_memory
    allocated = {(one.name, one.bytes) for one in rows if one.kind == "alloc"}
    assert set(live[["api", "bytes"]].itertuples(index=False, name=None)) == allocated


@pytest.mark.needs("OpenCL")
def test_real_opencl_kernels(tmp_path: Path) -> None:
    recording, truth = record_command("gpu", [sys.executable, str(SOURCES / "opencl_work.py")], tmp_path)
    calls = recording.gpu_calls
    assert losses(recording) == {} and set(calls["layer"]) == {"opencl"}
    good = calls[calls["result"] == 0]
    count = good.groupby(good["api"].astype(str)).size()
    size = good.groupby(good["api"].astype(str))["bytes"].sum()
    assert count["clEnqueueNDRangeKernel"] == truth["launches"]
    assert count["clCreateBuffer"] == truth["allocs"] and size["clCreateBuffer"] == truth["allocated"]
    assert count["clReleaseMemObject"] == truth["frees"] and size["clReleaseMemObject"] == truth["freed"]
    assert count["clEnqueueWriteBuffer"] == truth["writes"] and size["clEnqueueWriteBuffer"] == truth["written"]
    assert count["clEnqueueReadBuffer"] == truth["reads"] and size["clEnqueueReadBuffer"] == truth["read"]
    assert count["clEnqueueCopyBuffer"] == truth["copies"] and size["clEnqueueCopyBuffer"] == truth["copied"]
    assert count["clEnqueueFillBuffer"] == truth["fills"] and size["clEnqueueFillBuffer"] == truth["filled"]
    failed = calls[calls["result"] != 0]
    assert failed[["api", "result", "bytes", "pointer"]].values.tolist() == [
        ["clCreateBuffer", truth["code"], 0, 0]
    ]
    assert truth["code"] == -61  # CL_INVALID_BUFFER_SIZE
    memory = recording.gpu_memory
    assert memory[["pointer", "bytes"]].values.tolist() == [[truth["kept"], 5000]]
    launches = good[good["kind"] == "launch"]
    assert set(launches["stream"]) == {truth["queue"]}
    one = launches[launches["kernel"] == "add_one"]
    assert len(one) == 200
    shape = ["grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z"]
    assert set(one[shape].itertuples(index=False, name=None)) == {(4096, 1, 1, 64, 1, 1)}
    both = launches[launches["kernel"] == "fill_both"]
    assert len(both) == 20
    assert set(both[shape].itertuples(index=False, name=None)) == {(64, 64, 1, 0, 0, 0)}


@pytest.mark.needs("CUDA runtime")
def test_the_real_runtime_without_a_usable_driver(tmp_path: Path) -> None:
    from workbench.host.try_gpu import find_runtime

    program = (
        "import ctypes, sys, json\n"
        "lib = ctypes.CDLL(sys.argv[1])\n"
        "p = ctypes.c_void_p()\n"
        "codes = [lib.cudaMalloc(ctypes.byref(p), ctypes.c_size_t(4096)), lib.cudaMemcpy(None, None, "
        "ctypes.c_size_t(100), 1), lib.cudaFree(None), lib.cudaDeviceSynchronize()]\n"
        "print(json.dumps(codes))\n"
    )
    library = str(find_runtime())
    output = tmp_path / "output"
    with output.open("wb") as file:
        recording = Recorder(
            [f"gpu:runtime,library={library}"], output=tmp_path / "recording", stdout=file,
            command=[sys.executable, "-c", program, library],
        ).run()  # fmt: skip
    codes = json.loads(output.read_text())
    calls = recording.gpu_calls
    assert calls["api"].tolist() == ["cudaMalloc", "cudaMemcpy", "cudaFree", "cudaDeviceSynchronize"]
    assert calls["result"].tolist() == codes
    assert (calls.loc[calls["result"] != 0, "bytes"] == 0).all()
