"""Trials of probes on processes: uprobes, USDT, tracepoints, hardware breakpoints, counters.

Uprobes are tried on a file of our own that holds one tiny function: no library that others run is touched.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from workbench.host.trial import Absent, grant, holding, trial
from workbench.host.try_bpf import counted, counter_map, pmu_type
from workbench.kernel import bpf_syscall as bpf

__all__ = ()

_USE_BPF = grant("bpf", "perfmon")
# perf_event_open of a uprobe asks for CAP_SYS_ADMIN, where a link of uprobe_multi is content with CAP_PERFMON.
_USE_UPROBE = grant("bpf", "perfmon", "sys_admin")
_UPROBES = "use a kernel built with CONFIG_UPROBE_EVENTS=y (Debian's are)"
# A function that does nothing, beginning with an instruction that uprobes emulate.
_FUNCTIONS = {"x86_64": b"\x55\x5d\xc3", "aarch64": b"\x1f\x20\x03\xd5\xc0\x03\x5f\xd6"}
_REF_CTR_SHIFT = 32


class _Probed:
    """A file with one function (first page) and one USDT semaphore (second page), mapped into this process."""

    def __init__(self, stack: ExitStack) -> None:
        try:
            code = _FUNCTIONS[platform.machine()]
        except KeyError:
            raise Absent(f"not tried: no test function for {platform.machine()}") from None
        page = mmap.PAGESIZE
        named = tempfile.NamedTemporaryFile(prefix="workbench-doctor-")  # noqa: SIM115  the stack closes it
        file = stack.enter_context(named)
        file.write(code.ljust(2 * page, b"\0"))
        file.flush()
        try:
            text = mmap.mmap(file.fileno(), page, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        except PermissionError:
            folder = tempfile.gettempdir()
            raise Absent(f"{folder} is mounted noexec", "set TMPDIR to a folder without noexec") from None
        data = mmap.mmap(file.fileno(), page, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=page)
        self.path = file.name
        self.semaphore_offset = page
        self._data = data
        self._mappings = (text, data)  # kept mapped until the process of the trial ends: probes point into them
        self.call: Callable[[], None] = ctypes.CFUNCTYPE(None)(_mapped_address(file.name, "r-xp"))

    @property
    def semaphore(self) -> int:
        """The USDT reference counter as this process sees it."""
        (value,) = struct.unpack_from("<H", self._data)
        return int(value)


def _mapped_address(path: str, permissions: str) -> int:
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if fields[-1] == path and fields[1] == permissions:
            return int(fields[0].partition("-")[0], 16)
    raise Absent(f"{path} is not mapped {permissions}")


def _uprobe_program(stack: ExitStack, attach_type: int = 0) -> tuple[int, int]:
    counter = counter_map(stack)
    program = bpf.prog_load(bpf.PROG_KPROBE, bpf.counting_program(counter), attach_type=attach_type)
    return counter, holding(stack, program)


def _uprobe_event(stack: ExitStack, probed: _Probed, config: int = 0) -> int:
    path = ctypes.create_string_buffer(os.fsencode(probed.path))
    attr = bpf.perf_event_attr(
        pmu_type("uprobe"), config, config1=ctypes.addressof(path), config2=0, flags=bpf.PERF_DISABLED
    )
    return holding(stack, bpf.perf_event_open(attr, os.getpid(), -1))


def _three_calls(probed: _Probed, counter: int) -> None:
    for _ in range(3):
        probed.call()
    if (hits := counted(counter)) != 3:
        raise Absent(f"3 calls of the probed function gave {hits} hits")


@trial("uprobe", _UPROBES, _USE_UPROBE)
def _uprobe(stack: ExitStack) -> str:
    counter, program = _uprobe_program(stack)
    probed = _Probed(stack)
    bpf.attach_perf(_uprobe_event(stack, probed), program)
    _three_calls(probed, counter)
    return "3 calls of a function of this process were counted"


@trial("uprobe_multi", "needs Linux 6.6; without it every uprobe is attached by its own event, slower", _USE_BPF)
def _uprobe_multi(stack: ExitStack) -> str:
    counter, program = _uprobe_program(stack, bpf.ATTACH_TRACE_UPROBE_MULTI)
    probed = _Probed(stack)
    holding(stack, bpf.link_create_uprobe_multi(program, probed.path, [0], os.getpid()))
    _three_calls(probed, counter)
    return "one link of many uprobes: 3 calls of a function of this process were counted"


@trial("USDT", _UPROBES, _USE_UPROBE)
def _usdt(stack: ExitStack) -> str:
    counter, program = _uprobe_program(stack)
    probed = _Probed(stack)
    with ExitStack() as attached:
        event = _uprobe_event(attached, probed, probed.semaphore_offset << _REF_CTR_SHIFT)
        bpf.attach_perf(event, program)
        raised = probed.semaphore
        _three_calls(probed, counter)
    if (raised, probed.semaphore) != (1, 0):
        raise Absent(f"the semaphore was {raised} while attached and {probed.semaphore} after; expected 1 and 0")
    return "the kernel raised the semaphore while a probe was attached and lowered it after"


_TRACEFS_SCRIPT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
# A private view: the mount is seen by this process alone and goes with it.
if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None):
    sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
if libc.mount(b"tracefs", b"/sys/kernel/tracing", b"tracefs", 0, None):
    sys.exit(f"mount tracefs: {os.strerror(ctypes.get_errno())}")
print(open("/sys/kernel/tracing/events/" + sys.argv[1] + "/id").read())
"""


def _tracepoint_id(name: str) -> tuple[int, str]:
    for root in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        try:
            return int(Path(root, "events", name, "id").read_text()), root
        except FileNotFoundError:
            continue
    command = [sys.executable, "-c", _TRACEFS_SCRIPT, name]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or ["no tracefs"])[-1]
        raise Absent(f"tracefs is not mounted, and: {reason}", "as root: mount -t tracefs tracefs /sys/kernel/tracing")
    return int(run.stdout), "tracefs mounted in a private namespace"


@trial("tracepoint", "use a kernel with CONFIG_EVENT_TRACING=y (Debian's are)", _USE_BPF)
def _tracepoint(stack: ExitStack) -> str:
    counter = counter_map(stack)
    program = holding(stack, bpf.prog_load(bpf.PROG_TRACEPOINT, bpf.counting_program(counter)))
    name = "sched/sched_process_fork"
    number, where = _tracepoint_id(name)
    attr = bpf.perf_event_attr(bpf.PERF_TYPE_TRACEPOINT, number, flags=bpf.PERF_DISABLED)
    event = holding(stack, bpf.perf_event_open(attr, os.getpid(), -1))
    bpf.attach_perf(event, program)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    if (hits := counted(counter)) < 1:
        raise Absent(f"a fork gave {hits} hits of {name}")
    return f"attached to {name} (id {number}, {where}): a fork of this process was counted"


def _breakpoint(address: int, flags: int, **more: int) -> bytes:
    return bpf.perf_event_attr(
        bpf.PERF_TYPE_BREAKPOINT,
        period=1,
        flags=flags,
        breakpoint_type=bpf.BREAKPOINT_WRITE,
        config1=address,
        config2=8,
        **more,
    )


_BREAKPOINT_REMEDY = "the processor or the hypervisor gives no debug registers; use another machine"


@trial("hardware breakpoint", _BREAKPOINT_REMEDY, _USE_BPF)
def _hardware_breakpoint(stack: ExitStack) -> str:
    counter = counter_map(stack)
    program = holding(stack, bpf.prog_load(bpf.PROG_PERF_EVENT, bpf.counting_program(counter)))
    word = ctypes.c_uint64(0)
    attr = _breakpoint(ctypes.addressof(word), bpf.PERF_DISABLED)
    event = holding(stack, bpf.perf_event_open(attr, 0, -1))
    bpf.attach_perf(event, program)
    for value in range(3):
        word.value = value
    if (hits := counted(counter)) != 3:
        raise Absent(f"3 stores to a watched word gave {hits} hits")
    return "3 stores to a watched word of this process each ran a program"


@trial("sigtrap breakpoint", _BREAKPOINT_REMEDY, "as root: sysctl kernel.perf_event_paranoid=2")
def _sigtrap_breakpoint(stack: ExitStack) -> str:
    hits: list[int] = []
    before = signal.signal(signal.SIGTRAP, lambda number, frame: hits.append(number))
    stack.callback(signal.signal, signal.SIGTRAP, before)
    word = ctypes.c_uint64(0)
    flags = bpf.PERF_SIGTRAP | bpf.PERF_REMOVE_ON_EXEC | bpf.PERF_EXCLUDE_KERNEL | bpf.PERF_EXCLUDE_HV
    attr = _breakpoint(ctypes.addressof(word), flags, sig_data=ctypes.addressof(word))
    holding(stack, bpf.perf_event_open(attr, 0, -1))
    word.value = 1
    for _ in range(1000):  # the interpreter runs the handler between two of its instructions
        if hits:
            return "a store to a watched word raised SIGTRAP, without BPF or privilege"
    raise Absent("a store to a watched word raised no signal")


@trial(
    "PMU cycles",
    "the processor's counters are hidden (virtual machine); samples are taken on the cpu-clock instead",
    "as root: sysctl kernel.perf_event_paranoid=2",
)
def _pmu_cycles(stack: ExitStack) -> str:
    flags = bpf.PERF_EXCLUDE_KERNEL | bpf.PERF_EXCLUDE_HV
    attr = bpf.perf_event_attr(bpf.PERF_TYPE_HARDWARE, bpf.PERF_COUNT_CPU_CYCLES, flags=flags)
    try:
        event = holding(stack, bpf.perf_event_open(attr, 0, -1))
    except FileNotFoundError:
        raise Absent("the kernel offers no cycle counter") from None
    sum(range(100_000))
    (cycles,) = struct.unpack("<Q", os.read(event, 8))
    if not cycles:
        raise Absent("the counter opened but counted nothing")
    return f"counted {cycles} user cycles of a short loop"
