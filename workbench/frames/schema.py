"""Frame schemas: the declared columns of every table that a recording holds.

A frame is a pandas DataFrame whose columns are declared here with dtype, unit and meaning. Collectors append numpy
columns; `resolve` columns are not written by a collector but filled from addresses when a recording is finished or
loaded (see `finalize.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.errors import MissingFrame
from workbench.frames.causal_schemas import CAUSAL_SCHEMAS
from workbench.frames.declaration import Column, Kind, Schema
from workbench.frames.demonstration_schemas import DEMONSTRATION_SCHEMAS
from workbench.frames.program_schemas import PROGRAM_SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("SCHEMAS", "Column", "Schema", "register", "schema")

SCHEMAS: dict[str, Schema] = {}


def register(*schemas: Schema) -> None:
    """Add schemas to the registry; a second schema of the same name is a programming error (ValueError)."""
    for one in schemas:
        if SCHEMAS.get(one.name, one) != one:
            raise ValueError(f"two schemas named {one.name!r}")
        SCHEMAS[one.name] = one


def schema(name: str) -> Schema:
    """The schema of frame `name`; `print(wb.schema("samples"))` shows its columns.

    Raises
    ------
    MissingFrame
        No frame has that name; the hint lists all.
    """
    try:
        return SCHEMAS[name]
    except KeyError:
        raise MissingFrame(
            f"no frame is named {name!r}", f"frames: {', '.join(sorted(SCHEMAS))}"
        ) from None


def _columns(rows: Iterable[Column | tuple[str, Kind, str, str]]) -> tuple[Column, ...]:
    return tuple(row if isinstance(row, Column) else Column(*row) for row in rows)


TIME = Column("time", "int64", "ns", "when, on CLOCK_MONOTONIC")
PID = Column("pid", "int32", "id", "process (thread group) id in the initial pid namespace")
TID = Column("tid", "int32", "id", "thread id in the initial pid namespace")
CPU = Column("cpu", "int32", "id", "logical CPU")
COMM = Column("comm", "str", "", "thread name, at most 15 bytes")
STACK = Column("stack", "int32", "id", "row group of frame `stacks`; -1 where none was taken")
WHO = (TIME, PID, TID, CPU, COMM)

register(
    Schema(
        "stacks",
        "call stacks, one row per stack and frame, innermost first; equal stacks of a process share one id",
        _columns(
            [
                ("stack", "int32", "id", "stack id, as other frames name it"),
                (
                    "depth",
                    "int16",
                    "",
                    "0 is the innermost frame; inlined frames come before their caller",
                ),
                PID,
                (
                    "address",
                    "uint64",
                    "address",
                    "instruction (return address minus one for callers)",
                ),
                ("space", "str", "", "user, kernel, python or jit"),
                (
                    "function",
                    "str",
                    "",
                    "demangled function name; name@plt: the stub that calls an imported function; module:0xaddress: a "
                    "function without a symbol, by its first address in the file (a stripped file still tells it); "
                    "else module+0xoffset: a byte of the file, else the address",
                ),
                ("module", "str", "", "path of the mapped file, [kernel], or empty"),
                ("line", "str", "", "file:line where debug information exists, else empty"),
                ("inlined", "bool", "", "frame of an inlined call"),
            ]
        ),
        recorded_by="every collector that takes stacks",
    ),
    Schema(
        "mappings",
        "executable mappings of every process seen: what resolves addresses after the process exited",
        _columns(
            [
                TIME,
                PID,
                ("start", "uint64", "address", "first byte of the mapping"),
                ("end", "uint64", "address", "byte after the mapping"),
                ("offset", "uint64", "bytes", "file offset of `start`"),
                ("path", "str", "", "mapped file, or the kernel's name in brackets"),
                ("build_id", "str", "", "GNU build id in hex, empty if the file has none"),
            ]
        ),
        recorded_by="the recorder, always",
    ),
    Schema(
        "processes",
        "life of every process and thread seen",
        _columns(
            [
                TIME,
                PID,
                TID,
                ("parent", "int32", "id", "parent pid; -1 where it is not known"),
                ("event", "str", "", "present (at attach), fork, exec or exit"),
                COMM,
            ]
        ),
        recorded_by="the recorder, always",
    ),
    Schema(
        "overhead",
        "what recording cost the target: calibrated cost per hit on this machine times hits",
        _columns(
            [
                ("collector", "str", "", "collector"),
                ("probe", "str", "", "probe or class of probes"),
                ("instruction_class", "str", "", "nop5, emulated, single-step, jump (user space) or not applicable"),
                ("hits", "int64", "", "times the probe fired"),
                ("cost", "float64", "ns", "cost of one hit; calibrated: lower quartile of short batches of CPU time"),
                ("cost_low", "float64", "ns", "2.5th percentile of the calibration"),
                ("cost_high", "float64", "ns", "97.5th percentile of the calibration"),
                ("total", "float64", "ns", "hits x cost"),
            ]
        ),
        recorded_by="every collector",
    ),
    Schema(
        "losses",
        "events that happened but were not recorded, by cause",
        _columns(
            [
                ("collector", "str", "", "collector"),
                ("frame", "str", "", "frame that lacks the rows"),
                ("cause", "str", "", "ring full, budget spent, map full, ..."),
                ("lost", "int64", "", "events lost"),
            ]
        ),
        recorded_by="every collector",
    ),
    Schema(
        "samples",
        "CPU samples: where threads were when the sampling timer or counter fired",
        (
            *WHO,
            Column("function", "str", "", "innermost function", resolve="leaf:stack"),
            STACK,
        ),
        recorded_by="cpu",
    ),
    Schema(
        "calls",
        "uprobe, uretprobe and USDT hits, one row per call (entry or return) or per mark",
        (
            *WHO,
            Column("probe", "str", "", "probe as it was asked for"),
            Column("function", "str", "", "function or USDT mark that was hit"),
            Column("module", "str", "", "file of the function"),
            Column(
                "event", "str", "", "entry, return, call (entry joined with its return) or mark"
            ),
            Column(
                "duration",
                "int64",
                "ns",
                "entry to return, with the probe's own trap between them (see `overhead`: where the first "
                "instruction is single-stepped that is most of a short call); -1 where the row has only one of them",
            ),
            Column(
                "result",
                "int64",
                "",
                "return value register as signed 64-bit; 0 where not recorded",
            ),
            STACK,
        ),
        recorded_by="uprobe, uretprobe, usdt",
        open_columns=True,
    ),
    Schema(
        "probe_counts",
        "how often each probe was hit, counted in the kernel: complete even where `calls` lost rows",
        _columns(
            [
                ("probe", "str", "", "probe as it was asked for"),
                ("function", "str", "", "function or USDT mark"),
                ("module", "str", "", "file of the function"),
                PID,
                ("hits", "int64", "", "entries (for uretprobe: 0)"),
                ("returns", "int64", "", "returns, where they are probed"),
                ("total_duration", "int64", "ns", "sum of entry to return, where both are probed"),
            ]
        ),
        recorded_by="uprobe, uretprobe, usdt",
    ),
    Schema(
        "probe_latencies",
        "how long calls took, counted in the kernel: one row per function, process and latency bucket",
        _columns(
            [
                ("probe", "str", "", "probe as it was asked for"),
                ("function", "str", "", "function"),
                ("module", "str", "", "file of the function"),
                PID,
                ("bucket_low", "int64", "ns", "lower end of the latency bucket, inclusive"),
                ("bucket_high", "int64", "ns", "upper end of the latency bucket, exclusive"),
                ("count", "int64", "", "calls in this bucket"),
                ("total", "int64", "ns", "sum of the latencies in this bucket"),
            ]
        ),
        recorded_by="uprobe (latency=yes)",
    ),
    Schema(
        "watches",
        "hardware watchpoint hits",
        (
            *WHO,
            Column("watch", "str", "", "watchpoint as it was asked for"),
            Column("address", "uint64", "address", "watched address that was accessed"),
            Column("ip", "uint64", "address", "the accessing instruction (not the next one)"),
            Column(
                "access",
                "str",
                "",
                "write, read, read-write or unknown, by decoding the instruction",
            ),
            Column(
                "exact",
                "bool",
                "",
                "`ip` was proven; else it is where the processor stopped, after the access",
            ),
            Column("size", "int8", "bytes", "width of the watch"),
            Column(
                "before",
                "uint64",
                "",
                "value before the access, zero-extended; 0 where not recorded",
            ),
            Column(
                "after", "uint64", "", "value after the access, zero-extended; 0 where not recorded"
            ),
            Column(
                "function",
                "str",
                "",
                "function of the accessing instruction",
                resolve="function:ip",
            ),
            Column(
                "line", "str", "", "source line of the accessing instruction", resolve="line:ip"
            ),
            STACK,
        ),
        recorded_by="watch, rwatch",
    ),
    Schema(
        "watch_windows",
        "when each watched address was armed: what turns the hits of a limited or rotating watch into rates",
        _columns(
            [
                ("watch", "str", "", "watchpoint as it was asked for"),
                ("address", "uint64", "address", "first watched byte"),
                ("size", "int8", "bytes", "width of the watch"),
                ("start", "int64", "ns", "when a slot was aimed at it, on CLOCK_MONOTONIC"),
                ("end", "int64", "ns", "when it was aimed elsewhere or removed"),
                ("armed", "int64", "ns", "part of this in which accesses trapped (budget and rate limits disarm)"),
                ("hits", "int64", "", "traps taken"),
                ("recorded", "int64", "", "of these, hits recorded"),
            ]
        ),
        recorded_by="watch, rwatch",
    ),
    Schema(
        "gpu_calls",
        "calls of GPU APIs on the host side",
        (
            *WHO,
            Column("layer", "str", "", "runtime (CUDA runtime), driver (CUDA driver) or opencl"),
            Column("api", "str", "", "API function"),
            Column("kind", "str", "", "launch, copy, fill, prefetch, alloc, free, sync or other"),
            Column(
                "direction",
                "str",
                "",
                "of a copy: host-to-device, device-to-host, device-to-device, host-to-host, default "
                "(the driver finds out), map or unmap",
            ),
            Column("duration", "int64", "ns", "host time inside the call"),
            Column(
                "result",
                "int32",
                "",
                "return code of the API, 0 is success in all layers; 1 where a null pointer came without a code",
            ),
            Column(
                "bytes",
                "int64",
                "bytes",
                "bytes copied, filled, allocated or freed; 0 unless the call succeeded, and for memory allocated "
                "before the recording; never add layers: a runtime call makes driver calls (see `nested`)",
            ),
            Column(
                "pointer",
                "uint64",
                "address",
                "device pointer or memory object, kernel function for a launch",
            ),
            Column("kernel", "str", "", "name of the launched kernel, empty where it is not known"),
            Column("stream", "uint64", "", "stream or command queue handle"),
            Column("grid_x", "int64", "", "blocks (CUDA) or global work size (OpenCL) in x; 0 for other calls"),
            Column("grid_y", "int64", "", "same in y"),
            Column("grid_z", "int64", "", "same in z"),
            Column(
                "block_x",
                "int64",
                "",
                "threads per block (CUDA) or local work size (OpenCL, 0 where it was left to the platform) in x",
            ),
            Column("block_y", "int64", "", "same in y"),
            Column("block_z", "int64", "", "same in z"),
            Column(
                "nested",
                "bool",
                "",
                "made inside another recorded GPU API call of the thread; the others count each operation once",
            ),
            STACK,
        ),
        recorded_by="gpu",
    ),
    Schema(
        "gpu_counts",
        "GPU API calls counted in the kernel by function: complete even where `gpu_calls` lost rows",
        _columns(
            [
                ("layer", "str", "", "runtime (CUDA runtime), driver (CUDA driver) or opencl"),
                ("api", "str", "", "API function"),
                ("kind", "str", "", "as in gpu_calls"),
                PID,
                ("calls", "int64", "", "calls that returned"),
                ("errors", "int64", "", "calls that failed"),
                ("bytes", "int64", "bytes", "sum of the bytes of successful calls"),
                ("total_duration", "int64", "ns", "sum of the host time inside the calls"),
            ]
        ),
        recorded_by="gpu",
    ),
    Schema(
        "gpu_memory",
        "memory allocated through a GPU API while recording and not freed by its end",
        _columns(
            [
                Column("time", "int64", "ns", "when it was allocated: the row of gpu_calls with this time and tid"),
                PID,
                TID,
                ("layer", "str", "", "runtime (CUDA runtime), driver (CUDA driver) or opencl; never add layers"),
                ("api", "str", "", "API function that allocated it"),
                ("space", "str", "", "device, host, managed, shared, array or image"),
                ("pointer", "uint64", "address", "pointer or memory object"),
                ("bytes", "int64", "bytes", "size; 0 for arrays and images"),
            ]
        ),
        recorded_by="gpu",
    ),
    Schema(
        "offcpu",
        "times a thread was off the CPU: why it left, who woke it, how long it then waited to run",
        (
            *WHO,
            Column("duration", "int64", "ns", "off-CPU time: from switch-out to switch-in"),
            Column(
                "runqueue",
                "int64",
                "ns",
                "part of it spent runnable, waiting for a CPU; -1 where not known",
            ),
            Column(
                "state", "str", "", "task state at switch-out: preempted, sleeping, blocked, ..."
            ),
            Column(
                "function",
                "str",
                "",
                "innermost function outside the kernel when it left (in the kernel it is always the scheduler); for "
                "threads of the kernel, the innermost",
                resolve="user:stack",
            ),
            STACK,
            Column("waker_pid", "int32", "id", "process of the waker; -1 where none was seen"),
            Column("waker_tid", "int32", "id", "thread of the waker; -1 where none was seen"),
            Column("waker_comm", "str", "", "name of the waker"),
            Column(
                "waker_stack", "int32", "id", "the waker's stack at wake-up; -1 where none was seen"
            ),
        ),
        recorded_by="sched",
    ),
    Schema(
        "syscalls",
        "system call latency, counted in the kernel: one row per thread group, call and latency bucket",
        _columns(
            [
                PID,
                COMM,
                ("syscall", "str", "", "name of the system call"),
                ("bucket_low", "int64", "ns", "lower end of the latency bucket, inclusive"),
                ("bucket_high", "int64", "ns", "upper end of the latency bucket, exclusive"),
                ("count", "int64", "", "calls in this bucket"),
                ("errors", "int64", "", "calls of the bucket that returned an error"),
                ("total", "int64", "ns", "sum of the latencies in this bucket"),
            ]
        ),
        recorded_by="syscalls",
    ),
    Schema(
        "faults",
        "page faults",
        (
            *WHO,
            Column("address", "uint64", "address", "faulting data address"),
            Column("ip", "uint64", "address", "instruction that faulted"),
            Column("access", "str", "", "read, write or execute"),
            Column("user", "bool", "", "the fault came from user mode"),
            Column("function", "str", "", "function of the instruction", resolve="function:ip"),
            Column("module", "str", "", "file of the instruction", resolve="module:ip"),
            Column(
                "mapping",
                "str",
                "",
                "mapping that holds the data address",
                resolve="module:address",
            ),
            STACK,
        ),
        recorded_by="pages",
    ),
)
register(*PROGRAM_SCHEMAS, *CAUSAL_SCHEMAS, *DEMONSTRATION_SCHEMAS)
