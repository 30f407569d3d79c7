"""Trials of what BPF itself can do: maps, rings, BTF, and programs that hook kernel functions."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import struct
from contextlib import ExitStack
from pathlib import Path

from workbench.host.trial import Absent, grant, holding, trial
from workbench.kernel import bpf_syscall as bpf

__all__ = ("counted", "counter_map", "pmu_type")

_BTF = Path("/sys/kernel/btf/vmlinux")
_OPTION = "use a kernel built with {} (Debian's are), for example in a guest"
_USE_BPF = grant("bpf", "perfmon")
_STRUCT, _TYPEDEF, _FUNCTION = 4, 8, 12
_ZERO = struct.pack("<I", 0)
_PACKET = bytes(64)


def counter_map(stack: ExitStack) -> int:
    """An array map of one u64."""
    return holding(stack, bpf.map_create(bpf.MAP_ARRAY, 4, 8, 1))


def counted(counter: int) -> int:
    """The number that `counting_program` reached."""
    return int.from_bytes(bpf.map_lookup(counter, _ZERO, 8), "little")


@functools.cache
def _kernel_btf() -> bytes:
    return _BTF.read_bytes()


def _btf_id(kind: int, *names: str) -> tuple[str, int, int]:
    """The first of `names` that the kernel's BTF has: name, id and its size or type word."""
    found = bpf.btf_ids(_kernel_btf(), {(kind, name) for name in names})
    for name in names:
        if (kind, name) in found:
            return (name, *found[kind, name])
    raise Absent(f"the kernel's BTF has no {' or '.join(names)}")


@trial("BTF", _OPTION.format("CONFIG_DEBUG_INFO_BTF=y"))
def _btf(stack: ExitStack) -> str:
    _, number, size = _btf_id(_STRUCT, "task_struct")
    return f"{_BTF}: {len(_kernel_btf()) >> 10} KiB, task_struct is type {number} of {size} bytes"


@trial("ring buffer", "needs Linux 5.8 with CONFIG_BPF_SYSCALL=y", _USE_BPF)
def _ring_buffer(stack: ExitStack) -> str:
    page = mmap.PAGESIZE
    ring = holding(stack, bpf.map_create(bpf.MAP_RINGBUF, 0, 0, page))
    program = holding(stack, bpf.prog_load(bpf.PROG_SOCKET_FILTER, bpf.ring_output_program(ring, 4242)))
    bpf.prog_test_run(program, _PACKET)
    with mmap.mmap(ring, 3 * page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page) as view:
        produced, length, value = *struct.unpack_from("<Q", view), *struct.unpack_from("<I4xQ", view, page)
    if (produced, length, value) != (16, 8, 4242):
        raise Absent(f"the record read back is wrong: produced {produced}, length {length}, value {value}")
    return "a program sent a record through the ring and it was read in mapped memory"


@trial("LOOKUP_BATCH", "needs Linux 5.6; without it maps are read one element at a time", _USE_BPF)
def _lookup_batch(stack: ExitStack) -> str:
    table = holding(stack, bpf.map_create(bpf.MAP_HASH, 4, 8, 16))
    wanted = {struct.pack("<I", key): struct.pack("<Q", key * key) for key in range(5)}
    for key, value in wanted.items():
        bpf.map_update(table, key, value)
    if dict(bpf.map_lookup_batch(table, 4, 8, 16)) != wanted:
        raise Absent("the batch read back differs from what was written")
    return f"{len(wanted)} elements of a hash map in one call"


@trial("mmapable array", "needs Linux 5.5", _USE_BPF)
def _mmapable_array(stack: ExitStack) -> str:
    array = holding(stack, bpf.map_create(bpf.MAP_ARRAY, 4, 8, 4, bpf.MAP_F_MMAPABLE))
    with mmap.mmap(array, mmap.PAGESIZE) as view:
        struct.pack_into("<Q", view, 0, 4242)
    if counted(array) != 4242:
        raise Absent("a value stored through the mapping was not seen by the kernel")
    return "a value stored through the mapping was read by the kernel"


@trial("raw tracepoint", _OPTION.format("CONFIG_BPF_EVENTS=y"), _USE_BPF)
def _raw_tracepoint(stack: ExitStack) -> str:
    counter = counter_map(stack)
    program = holding(stack, bpf.prog_load(bpf.PROG_RAW_TRACEPOINT, bpf.counting_program(counter)))
    holding(stack, bpf.raw_tracepoint_open(program, "sys_enter"))
    return _system_calls_counted(counter, "sys_enter")


@trial("BTF tracepoint", _OPTION.format("CONFIG_DEBUG_INFO_BTF=y"), _USE_BPF)
def _btf_tracepoint(stack: ExitStack) -> str:
    counter = counter_map(stack)
    _, number, _ = _btf_id(_TYPEDEF, "btf_trace_sys_enter")
    program = bpf.prog_load(
        bpf.PROG_TRACING,
        bpf.counting_program(counter),
        attach_type=bpf.ATTACH_TRACE_RAW_TP,
        attach_btf_id=number,
    )
    holding(stack, program)
    holding(stack, bpf.raw_tracepoint_open(program))
    return _system_calls_counted(counter, "tp_btf/sys_enter")


def _system_calls_counted(counter: int, where: str) -> str:
    for _ in range(10):
        os.getppid()
    if (hits := counted(counter)) < 10:
        raise Absent(f"10 system calls gave {hits} hits")
    return f"attached to {where}: every one of 10 system calls was counted"


@trial("fentry", _OPTION.format("CONFIG_DEBUG_INFO_BTF=y and CONFIG_FUNCTION_TRACER=y"), _USE_BPF)
def _fentry(stack: ExitStack) -> str:
    counter = counter_map(stack)
    # A function that runs only when BPF_PROG_TEST_RUN asks for it: nobody else's calls are touched.
    name, number, _ = _btf_id(_FUNCTION, "bpf_fentry_test1")
    program = bpf.prog_load(
        bpf.PROG_TRACING,
        bpf.counting_program(counter),
        attach_type=bpf.ATTACH_TRACE_FENTRY,
        attach_btf_id=number,
    )
    holding(stack, program)
    holding(stack, bpf.raw_tracepoint_open(program))
    bpf.prog_test_run(program)
    if (hits := counted(counter)) != 1:
        raise Absent(f"one call of {name} gave {hits} hits")
    return f"one call of {name} was counted"


@trial("BPF LSM", "boot with `bpf` in the lsm= list, on a kernel built with CONFIG_BPF_LSM=y", _USE_BPF)
def _lsm(stack: ExitStack) -> str:
    counter = counter_map(stack)
    name, number, _ = _btf_id(_FUNCTION, "bpf_lsm_task_getsid")  # rare, and the program allows it
    program = bpf.prog_load(
        bpf.PROG_LSM, bpf.counting_program(counter), attach_type=bpf.ATTACH_LSM_MAC, attach_btf_id=number
    )
    holding(stack, program)
    holding(stack, bpf.raw_tracepoint_open(program))
    os.getsid(os.getpid())
    if (hits := counted(counter)) < 1:
        raise Absent(f"attached to {name}, but a call of getsid gave {hits} hits: `bpf` is not an active LSM")
    return f"attached to {name}: a call of getsid was counted"


@trial(
    "sched_ext",
    "use a kernel with CONFIG_SCHED_CLASS_EXT=y (Debian: trixie-backports or newer), for example in a guest",
    grant("bpf", "perfmon", "sys_admin"),
)
def _sched_ext(stack: ExitStack) -> str:
    _, number, size = _btf_id(_STRUCT, "bpf_struct_ops_sched_ext_ops")
    holding(stack, bpf.struct_ops_map_create(number, size))
    try:
        state = Path("/sys/kernel/sched_ext/state").read_text().strip()
    except OSError as error:
        raise Absent(f"the kernel knows struct sched_ext_ops, but {error.filename} cannot be read") from error
    return f"the kernel took a struct_ops map of sched_ext_ops (never switched on); state is {state!r}"


@trial("perf_event BPF", _OPTION.format("CONFIG_BPF_EVENTS=y"), _USE_BPF)
def _perf_event_bpf(stack: ExitStack) -> str:
    counter = counter_map(stack)
    program = holding(stack, bpf.prog_load(bpf.PROG_PERF_EVENT, bpf.counting_program(counter)))
    attr = bpf.perf_event_attr(
        bpf.PERF_TYPE_SOFTWARE, bpf.PERF_COUNT_CPU_CLOCK, period=200_000, flags=bpf.PERF_DISABLED
    )
    event = holding(stack, bpf.perf_event_open(attr, 0, -1))
    bpf.attach_perf(event, program)
    clock = os.times()
    while counted(counter) < 3:
        now = os.times()
        if now.elapsed - clock.elapsed > 5 or now.user + now.system - clock.user - clock.system > 0.5:
            raise Absent("the cpu-clock sampled this busy process less than 3 times in 0.5 s of CPU time")
    return "a program ran at samples of the cpu-clock of this process"


@trial("kprobe", _OPTION.format("CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y"), _USE_BPF)
def _kprobe(stack: ExitStack) -> str:
    counter = counter_map(stack)
    program = holding(stack, bpf.prog_load(bpf.PROG_KPROBE, bpf.counting_program(counter)))
    kind = pmu_type("kprobe")
    function = _system_call_function()
    name = ctypes.create_string_buffer(function.encode())
    attr = bpf.perf_event_attr(kind, config1=ctypes.addressof(name), flags=bpf.PERF_DISABLED)
    event = holding(stack, bpf.perf_event_open(attr, os.getpid(), -1))
    bpf.attach_perf(event, program)
    for _ in range(10):
        os.getppid()
    if (hits := counted(counter)) < 10:
        raise Absent(f"10 calls of {function} gave {hits} hits")
    return f"attached to {function}: every one of 10 calls was counted"


def _system_call_function() -> str:
    with Path("/proc/kallsyms").open() as symbols:
        for line in symbols:
            name = line.split()[2]
            if name.endswith("sys_getppid") and name.startswith(("__x64_", "__arm64_", "__riscv_", "__s390x_")):
                return name
    raise Absent("/proc/kallsyms has no getppid to probe")


def pmu_type(name: str) -> int:
    """The dynamic type number of a perf event source such as ``uprobe``."""
    path = Path("/sys/bus/event_source/devices", name, "type")
    try:
        return int(path.read_text())
    except FileNotFoundError:
        raise Absent(f"the kernel has no event source {name} ({path})") from None
    except OSError as error:
        raise OSError(error.errno or errno.EACCES, error.strerror, str(path)) from None
