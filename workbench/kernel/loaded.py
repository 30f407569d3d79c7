"""Load an object into the kernel with libbpf: maps, globals and links of one loaded object.

`with load(obj) as loaded:` closes every link, map and program on exit, and so does the death of the process: nothing
is pinned.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import BadSpec, MissingCapability, WorkbenchError
from workbench.kernel import perf, struct_ops
from workbench.kernel.clocks import attach_events, interval_events, sampling_events
from workbench.kernel.libbpf import capture_log, errno_error, library, log_text
from workbench.kernel.links import Link
from workbench.kernel.load_error import doctor_row, load_error
from workbench.kernel.maps import Map
from workbench.kernel.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    import pandas as pd
    from numpy.typing import NDArray

    from workbench.objects.model import BpfObject

__all__ = ("Loaded", "Program", "load")

_LOG_BYTES = 1 << 24
_Log = ctypes.c_char * _LOG_BYTES
_BPF_LINK_CREATE = 28
_TRACE_RAW_TP, _PERF_EVENT, _UPROBE_MULTI, _UPROBE_SESSION = 23, 41, 48, 57
_RING_BUFFER, _KPROBE = 27, 2
_UPROBE_MULTI_RETURN = 1
_SLEEPABLE = 1 << 4


class Program:
    """A loaded program."""

    def __init__(self, name: str, section: str, fd: int) -> None:
        self.name, self.section, self.fd = name, section, fd

    def __repr__(self) -> str:
        return f"<Program {self.name} ({self.section})>"


class Loaded:
    """A loaded object. Made by `load`.

    Attributes
    ----------
    maps : dict of str to Map
        Every map but rings and the hidden maps of global variables.
    programs : dict of str to Program
    globals : dict of str to ndarray
        Writable 0-d numpy views of the variables in .data and .bss, live while the program runs:
        `loaded.globals["lost_ring_full"][()]`.
    backend, why : str
        "kernel", and why this backend was chosen where that was left to `BpfObject.load`.
    default_pid : int or None
        Process that attachments without a pid of their own are restricted to; None: every process.
    """

    backend = "kernel"

    def __init__(
        self, obj: BpfObject, handle: int, programs: dict[str, Program], pid: int | None = None
    ) -> None:
        self.object, self.default_pid = obj, pid
        self.why = ""
        self._handle: int | None = handle
        self.programs = programs
        self.maps: dict[str, Map] = {}
        self.ring_fds: dict[str, tuple[int, int]] = {}
        self.globals: dict[str, NDArray[Any]] = {}
        self._links: list[Link] = []
        self._read_maps(library(), handle)

    def _read_maps(self, lib: ctypes.CDLL, handle: int) -> None:
        current = lib.bpf_object__next_map(handle, None)
        while current:
            name = lib.bpf_map__name(current).decode()
            definition = self.object.maps.get(name)
            fd, kind = lib.bpf_map__fd(current), lib.bpf_map__type(current)
            if definition is not None and kind == _RING_BUFFER:
                self.ring_fds[name] = (fd, lib.bpf_map__max_entries(current))
            elif definition is not None:
                sizes = lib.bpf_map__key_size(current), lib.bpf_map__value_size(current)
                types = definition.key_type, definition.value_type
                key, value = (
                    self.object.btf.dtype(t) if t else np.dtype(f"V{max(size, 1)}")
                    for t, size in zip(types, sizes, strict=True)
                )
                entries, flags = lib.bpf_map__max_entries(current), lib.bpf_map__map_flags(current)
                self.maps[name] = Map(name, fd, kind, key, value, entries, flags)
            elif name.endswith((".bss", ".data")):
                self._read_globals(lib, current, "." + name.rsplit(".", 1)[1])
            current = lib.bpf_object__next_map(handle, current)

    def _read_globals(self, lib: ctypes.CDLL, current: int, section: str) -> None:
        # libbpf maps the variables' memory onto the map only for skeletons, so we map it ourselves.
        size = lib.bpf_map__value_size(current)
        area = mmap.mmap(
            lib.bpf_map__fd(current), size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        for name, (offset, number) in self.object.globals(section).items():
            dtype = self.object.btf.dtype(number)
            base, shape = dtype.subdtype if dtype.subdtype else (dtype, ())
            if offset + dtype.itemsize <= size:
                view: NDArray[Any] = np.ndarray(shape, base, area, offset)
                self.globals[name] = view

    def __repr__(self) -> str:
        return (
            f"<Loaded {self.object.name} in the kernel: programs {', '.join(self.programs) or 'none'}; "
            f"maps {', '.join(self.maps) or 'none'}>"
        )

    def __enter__(self) -> Loaded:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Detach all links and unload; safe to call twice."""
        self.detach()
        handle, self._handle = self._handle, None
        if handle is not None:
            self.globals.clear()
            library().bpf_object__close(handle)

    def detach(self) -> None:
        """Close every link made through this object; maps stay readable."""
        links, self._links = self._links, []
        for link in reversed(links):
            link.close()

    def _keep(self, link: Link) -> Link:
        self._links = [old for old in self._links if old.attached]
        self._links.append(link)
        return link

    def _pid(self, pid: int | None) -> int | None:
        return self.default_pid if pid is None else pid

    def _hook_machine(self, program: str, kind: str, pid: int | None = None) -> None:
        """Refuse a process for what the kernel hooks for every process."""
        if (pid := self._pid(pid)) is not None:
            raise BadSpec(
                f"{program} cannot be restricted to process {pid}: the kernel hooks a {kind} for the whole machine",
                "leave pid away in load and in attach, and let the program look at bpf_get_current_pid_tgid",
            )

    def _link_create(self, program: Program, what: str, attr: bytes) -> int:
        fd = perf.bpf(_BPF_LINK_CREATE, attr)
        if fd < 0:
            raise errno_error(f"cannot attach {program.name!r} to {what}", fd)
        return fd

    def ring(self, name: str) -> Ring:
        """A ring buffer map, ready for a reader of `workbench.kernel.ring`; the caller closes it."""
        return Ring(*self.ring_fds[name])

    def records(self, ring: str, struct: str = "") -> pd.DataFrame:
        """What waits in a ring, as a frame: a row per record, and the ring is empty then.

        Parameters
        ----------
        ring : str
        struct : str
            C struct of the records; by default the one that the object publishes for the ring (`PUBLISH(ring, struct)`
            of workbench.h).

        Raises
        ------
        MissingFrame
            The object has no such struct, or publishes none.
        """
        from workbench.frames.ring_frame import ring_frame

        area = self.ring(ring)
        try:
            return ring_frame(area, self.object.record_dtype(ring, struct))
        finally:
            area.close()

    def attach(
        self, program: str, target: str = "", *, pid: int | None = None, cookie: int = 0
    ) -> Link:
        """Attach a program by what its section says; see `workbench.collectors.attach.attach`."""
        from importlib import import_module  # names are resolved in a room above this one

        link: Link = import_module("workbench.collectors.attach").attach(
            self, program, target, pid=pid, cookie=cookie
        )
        return link

    def attach_sampling(self, program: str, hertz: int, *, pid: int | None = None) -> Link:
        """Run a `perf_event` program `hertz` times a second of CPU time, in one process or on every CPU.

        Threads that the process makes later are followed (perf's `inherit`).
        """
        fds = attach_events(self, program, sampling_events(hertz, self._pid(pid)))
        return self._keep(Link(f"{program} at {hertz} Hz", fds))

    def attach_struct_ops(self, name: str) -> Link:
        """Register a struct_ops variable (a scheduler) of the object; see `workbench.kernel.struct_ops.attach`."""
        if self._handle is None:
            raise WorkbenchError(f"{self.object.name} is closed", "load it again")
        return self._keep(struct_ops.attach(self._handle, name))

    def attach_interval(self, program: str, period: int, *, cookie: int = 0) -> Link:
        """Run a `perf_event` program every `period` ns of wall-clock time, on one CPU."""
        fds = attach_events(self, program, interval_events(period), cookie)
        return self._keep(Link(f"{program} every {period} ns", fds))

    def attach_perf_event(self, program: str, event_fd: int, *, cookie: int = 0) -> Link:
        """Run `program` on every overflow of a perf event; takes ownership of `event_fd`.

        The event starts when it is enabled by the caller (`perf.enable`).
        """
        one = self.programs[program]
        try:
            attr = struct.pack("<IIIIQ", one.fd, event_fd, _PERF_EVENT, 0, cookie)
            link = self._link_create(one, "a perf event", attr.ljust(64, b"\0"))
        except WorkbenchError:
            perf.close(event_fd)
            raise
        return self._keep(Link(f"{program} on a perf event", [link, event_fd]))

    def attach_uprobes(
        self,
        program: str,
        path: str,
        offsets: Sequence[int] | NDArray[np.uint64],
        *,
        cookies: Sequence[int] | NDArray[np.uint64] | None = None,
        semaphores: Sequence[int] | NDArray[np.uint64] | None = None,
        pid: int | None = None,
        on_return: bool = False,
    ) -> Link:
        """Attach to many places of one file in one call (uprobe_multi, Linux >= 6.6).

        Parameters
        ----------
        program : str
            A program of section `uprobe.multi` or `uretprobe.multi`.
        path : str
            ELF file as this process sees it (`/proc/PID/root/...` for another mount namespace).
        offsets, cookies, semaphores : uint64, shape (n,)
            File offsets of the instructions; a cookie for each (bpf_get_attach_cookie); file offsets of USDT
            semaphores, which the kernel counts up while attached.
        pid : int, optional
            Only hits of this process (all its threads); None for `default_pid`, else for every process.
        on_return : bool
            Fire at the function's return instead.

        Raises
        ------
        MissingCapability
            The kernel has no uprobe_multi, or refuses an offset.
        """
        one = self.programs[program]
        where = np.ascontiguousarray(offsets, np.uint64)
        tags = (
            np.zeros(0, np.uint64) if cookies is None else np.ascontiguousarray(cookies, np.uint64)
        )
        marks = (
            np.zeros(0, np.uint64)
            if semaphores is None
            else np.ascontiguousarray(semaphores, np.uint64)
        )
        name = ctypes.create_string_buffer(os.fsencode(path))
        attr = struct.pack(
            "<IIIIQQQQIII", one.fd, 0, _UPROBE_MULTI, 0, ctypes.addressof(name), where.ctypes.data,
            marks.ctypes.data if len(marks) else 0, tags.ctypes.data if len(tags) else 0, len(where),
            _UPROBE_MULTI_RETURN if on_return else 0, self._pid(pid) or 0,
        )  # fmt: skip
        fd = self._link_create(one, f"{len(where)} places in {path}", attr.ljust(72, b"\0"))
        return self._keep(Link(f"{program} on {len(where)} places of {path}", [fd]))

    def attach_uprobe_event(
        self,
        program: str,
        path: str,
        offset: int,
        *,
        cookie: int = 0,
        semaphore: int = 0,
        pid: int | None = None,
        on_return: bool = False,
    ) -> Link:
        """Attach to one place by a perf event: what kernels before uprobe_multi have (Linux >= 4.17).

        Arguments as of `attach_uprobes`, for one place. `program` must be loaded without an expected attach type
        (`load(attach_types={program: 0})`).
        """
        event = perf.open_uprobe(
            path, offset, pid=self._pid(pid), on_return=on_return, semaphore=semaphore
        )
        link = self.attach_perf_event(program, event, cookie=cookie)
        perf.enable(event)
        return link

    def attach_raw_tracepoint(
        self, program: str, tracepoint: str, *, pid: int | None = None
    ) -> Link:
        """Run `program` (section `raw_tp/...`) at a raw tracepoint of the whole machine: a pid is refused."""
        self._hook_machine(program, "raw tracepoint", pid)
        one = self.programs[program]
        fd = library().bpf_raw_tracepoint_open(tracepoint.encode(), one.fd)
        if fd < 0:
            raise errno_error(f"cannot attach {program!r} to raw tracepoint {tracepoint}", fd)
        return self._keep(Link(f"{program} on raw tracepoint {tracepoint}", [fd]))

    def attach_tracepoint(
        self, program: str, category: str, tracepoint: str, *, pid: int | None = None
    ) -> Link:
        """Run `program` (section `tp/...`) at a tracepoint, on every CPU: a pid is refused."""
        self._hook_machine(program, "tracepoint", pid)
        event = perf.open_tracepoint(category, tracepoint)
        link = self.attach_perf_event(program, event)
        perf.enable(event)
        return link

    def attach_tracing(self, program: str, *, pid: int | None = None) -> Link:
        """Attach a `tp_btf/...` program to the target that its section names: a pid is refused."""
        one = self.programs[program]
        self._hook_machine(program, one.section, pid)
        fd = library().bpf_raw_tracepoint_open(None, one.fd)
        if fd < 0:
            raise errno_error(
                f"cannot attach {program!r} ({one.section})", fd, doctor_row([one.section])
            )
        return self._keep(Link(f"{program} ({one.section})", [fd]))

    def test_run(self, program: str, data: bytes = bytes(64), repeat: int = 1) -> tuple[int, int]:
        """BPF_PROG_TEST_RUN: (return value, mean duration of one run in ns)."""
        one = self.programs[program]
        buffer = ctypes.create_string_buffer(data, len(data))
        attr = bytearray(80)
        struct.pack_into("<IIII", attr, 0, one.fd, 0, len(data), 0)
        struct.pack_into("<QQII", attr, 16, ctypes.addressof(buffer), 0, repeat, 0)
        raw = ctypes.create_string_buffer(bytes(attr), len(attr))
        result = perf.bpf_raw(10, raw)
        if result < 0:
            raise errno_error(f"cannot test-run {program!r}", result)
        value, duration = (
            struct.unpack_from("<I", raw.raw, 4)[0],
            struct.unpack_from("<I", raw.raw, 36)[0],
        )
        return int(value), int(duration)


def load(
    obj: BpfObject,
    *,
    constants: Mapping[str, int | bool] | None = None,
    map_sizes: Mapping[str, int] | None = None,
    reuse: Mapping[str, int] | None = None,
    programs: Iterable[str] | None = None,
    attach_types: Mapping[str, int] | None = None,
    pid: int | None = None,
) -> Loaded:
    """Load an object into the running kernel.

    Parameters
    ----------
    obj : BpfObject
    constants : dict, optional
        Values of `const volatile` knobs by name, set before the verifier sees them.
    map_sizes : dict, optional
        max_entries (bytes for rings) by map name.
    reuse : dict, optional
        Map descriptors to use instead of creating the maps, by map name.
    programs : iterable of str, optional
        Load only these; all by default.
    attach_types : dict, optional
        Expected attach type by program name, where the section name alone does not say it.
    pid : int, optional
        Process that attachments without a pid of their own are restricted to, and in which names are resolved. What
        the kernel hooks for the whole machine alone (tracepoints, fentry) is refused then.

    Raises
    ------
    VerifierRejected
        With the C line at which the verifier gave up.
    NotPermitted, MissingCapability
        The kernel or the user's privileges do not allow it.
    """
    lib = library()
    capture_log()
    handle = lib.bpf_object__open_mem(obj.data, len(obj.data), None)
    if not handle:
        raise MissingCapability(
            f"libbpf cannot open {obj.name}: {log_text()}", "rebuild the object with clang -g"
        )
    try:
        logs = _prepare(
            lib, handle, obj, constants or {}, map_sizes or {}, reuse or {}, programs,
            attach_types or {},
        )  # fmt: skip
        result = lib.bpf_object__load(handle)
        if result:
            raise load_error(obj, handle, result, logs)
        loaded = {}
        for name, section, program in _programs(lib, handle):
            fd = lib.bpf_program__fd(program)
            if fd >= 0:
                loaded[name] = Program(name, section, fd)
        return Loaded(obj, handle, loaded, pid)
    except BaseException:
        lib.bpf_object__close(handle)
        raise


def _programs(lib: ctypes.CDLL, handle: int) -> list[tuple[str, str, int]]:
    found = []
    current = lib.bpf_object__next_program(handle, None)
    while current:
        name, section = lib.bpf_program__name(current), lib.bpf_program__section_name(current)
        found.append((name.decode(), section.decode(), current))
        current = lib.bpf_object__next_program(handle, current)
    return found


def _prepare(
    lib: ctypes.CDLL,
    handle: int,
    obj: BpfObject,
    constants: Mapping[str, int | bool],
    map_sizes: Mapping[str, int],
    reuse: Mapping[str, int],
    wanted: Iterable[str] | None,
    attach_types: Mapping[str, int],
) -> dict[str, ctypes.Array[ctypes.c_char]]:
    wanted = None if wanted is None else set(wanted)
    logs = {}
    for name, section, program in _programs(lib, handle):
        if wanted is not None and name not in wanted:
            lib.bpf_program__set_autoload(program, False)
            continue
        if section.split("/")[0].removesuffix(".s") in ("uprobe.multi", "uretprobe.multi"):
            # libbpf < 1.3 does not know the section
            lib.bpf_program__set_type(program, _KPROBE)
            lib.bpf_program__set_expected_attach_type(program, _UPROBE_MULTI)
            if section.split("/")[0].endswith(".s"):
                lib.bpf_program__set_flags(program, _SLEEPABLE)
        if section.removeprefix("struct_ops/") in struct_ops.SLEEPABLE_MEMBERS:
            lib.bpf_program__set_flags(program, _SLEEPABLE)
        if name in attach_types:
            lib.bpf_program__set_expected_attach_type(program, attach_types[name])
        logs[name] = _Log.from_buffer(mmap.mmap(-1, _LOG_BYTES))  # pages that nobody writes cost nothing
        lib.bpf_program__set_log_buf(program, logs[name], _LOG_BYTES)
    unknown_sizes, unknown_maps = dict(map_sizes), dict(reuse)
    unknown_constants = dict(constants)
    current = lib.bpf_object__next_map(handle, None)
    while current:
        name = lib.bpf_map__name(current).decode()
        struct_ops.prepare(current)
        if name in unknown_sizes:
            lib.bpf_map__set_max_entries(current, unknown_sizes.pop(name))
        if name in unknown_maps:
            lib.bpf_map__reuse_fd(current, unknown_maps.pop(name))
        if name.endswith(".rodata"):
            size = ctypes.c_size_t()
            address = lib.bpf_map__initial_value(current, ctypes.byref(size))
            area: Any = (ctypes.c_ubyte * size.value).from_address(address)
            for constant, (offset, number) in obj.globals(".rodata").items():
                if constant in unknown_constants:
                    view: NDArray[Any] = np.ndarray((), obj.btf.dtype(number), area, offset)
                    view[()] = unknown_constants.pop(constant)
        current = lib.bpf_object__next_map(handle, current)
    for kind, left in (
        ("map", unknown_sizes),
        ("map", unknown_maps),
        ("constant", unknown_constants),
    ):
        if left:
            raise WorkbenchError(f"{obj.name} has no {kind} named {', '.join(map(repr, left))}")
    return logs
