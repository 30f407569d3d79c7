"""Load an object into user space: the face of `workbench.kernel.loaded`, without privilege.

    with load(obj) as loaded:
        loaded.attach_uprobes("count", "/usr/lib/libc.so.6", [offset], pid=1234)

Linked against the platform's types, verified, compiled (quick tier at once, optimised in the background), its maps in
a namespace of shared memory. Nothing is left when `with` ends: hooks are removed, the namespace vanishes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from workbench.errors import BadSpec, WorkbenchError
from workbench.runtime.helpers.streams import needed_rings
from workbench.runtime.inventory import Note, announce
from workbench.runtime.link_notes import announce_link
from workbench.runtime.maps import current_run
from workbench.runtime.maps.holding import Holding
from workbench.runtime.program import Links, Program
from workbench.runtime.sharing import enter_process, enter_space, leave_process, leave_space
from workbench.runtime.timers import RING, enter_timers, leave_timers
from workbench.runtime.variables import global_views
from workbench.runtime.verify import linked_for_user_space, refuse_missing_helpers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from workbench.objects.linked import LinkedObject
    from workbench.objects.model import BpfObject
    from workbench.runtime.attach import Link, Process
    from workbench.runtime.attach.sampling import Driver, Sampling
    from workbench.runtime.helpers.printk import Lines
    from workbench.runtime.intervals import Interval
    from workbench.runtime.maps import Map, Space
    from workbench.runtime.tracepoints import CallPoint

    _Link = TypeVar("_Link", Links, Sampling, Interval)

__all__ = ("Loaded", "load")

_PROGRAM_ARRAY, _RING_BUFFER = 3, 27


class Loaded:
    """A loaded object. Made by `load`.

    Attributes
    ----------
    maps : dict of str to Map
        Every map but rings and the hidden maps of global variables.
    programs : dict of str to Program
    globals : dict of str to ndarray
        Writable 0-d numpy views of the variables in .data and .bss, live while programs run.
    space : Space
        The namespace that holds the maps.
    backend, why : str
        "userspace", and why this backend was chosen where that was left to `BpfObject.load`.
    """

    backend = "userspace"

    def __init__(self, obj: BpfObject, linked: LinkedObject, space: Space, pid: int | None) -> None:
        self.object, self.linked, self.space, self.default_pid = obj, linked, space, pid
        self.why = ""
        self.left_out = 0
        self.programs: dict[str, Program] = {}
        self._links: list[Links | Sampling | Interval] = []
        self._processes: dict[int, Process] = {}
        self._notes: list[Note] = []
        self._closed = False
        self._holding = Holding(space)
        self.all_maps: list[Map] = [self._holding.create(one, linked.btf) for one in linked.maps]
        # Rings of the helpers' own, opened in every target as well: printed lines, timers.
        rings = needed_rings(linked)
        self._extra = [self._holding.create(one) for one in rings if one is not RING]
        self._timers = enter_timers(space) if RING in rings else None  # last: nothing fails after it
        if self._timers is not None:
            self._extra.append(self._timers.ring)
        self._lines: Lines | None = None
        self.maps: dict[str, Map] = {}
        self.rings: dict[str, Map] = {}
        for one, made in zip(linked.maps, self.all_maps, strict=True):
            if one.name.startswith("."):
                continue
            (self.rings if one.type == _RING_BUFFER else self.maps)[one.name] = made
        self.globals: dict[str, NDArray[Any]] = global_views(linked, self.all_maps)

    def __repr__(self) -> str:
        return (
            f"<Loaded {self.object.name} in user space: programs {', '.join(self.programs) or 'none'}; "
            f"maps {', '.join((*self.maps, *self.rings)) or 'none'}>"
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

    def add(self, program: Program) -> None:
        """Take in a program and leave a note of it for `workbench bpf progs`."""
        self.programs[program.name] = program
        program.probe_maps = (*self.all_maps, *self._extra)
        if self._timers is not None:
            self._timers.add(program, self.all_maps)
        linked = self.linked
        note = announce(self.space, linked.name, linked.license, program.linked, self.all_maps)
        self._notes.append(note)
        program.note, program.number = note, note.number

    def fill(self) -> None:
        """Set the initial content of maps of maps and of program arrays (`__array(values, ...)`)."""
        by_name = {
            one.name: made for one, made in zip(self.linked.maps, self.all_maps, strict=True)
        }
        for one, made in zip(self.linked.maps, self.all_maps, strict=True):
            for index, name in one.values:
                if one.type != _PROGRAM_ARRAY:
                    made[index] = by_name[name]
                elif name in self.programs:
                    made[index] = self.programs[name]

    def ring(self, name: str) -> Any:
        """A ring buffer map, ready for a reader of `workbench.kernel.ring`; the caller closes it."""
        if name not in self.rings:
            raise BadSpec(
                f"{self.object.name} has no ring {name!r}",
                f"rings: {', '.join(self.rings) or 'none'}",
            )
        return self.rings[name]

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

        return ring_frame(self.ring(ring), self.object.record_dtype(ring, struct))

    def attach(
        self,
        program: str,
        target: str = "",
        *,
        pid: int | None = None,
        cookie: int = 0,
        replace: bool = False,
        wait: bool = False,
    ) -> Any:
        """Attach a program by what its section says; see `workbench.collectors.attach.attach`."""
        from importlib import import_module  # names are resolved in a room above this one

        return import_module("workbench.collectors.attach").attach(
            self, program, target, pid=pid, cookie=cookie, replace=replace, wait=wait
        )

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
        replace: bool = False,
        refused: dict[int, str] | None = None,
        wait: bool = False,
    ) -> Links:
        """Attach to many places of one file while the process is held once.

        Parameters
        ----------
        program : str
        path : str
            ELF file as this process sees it, mapped by the target.
        offsets, cookies, semaphores : uint64, shape (n,)
            File offsets of the instructions; a cookie for each (bpf_get_attach_cookie); file offsets of USDT
            semaphores, which are counted up while attached.
        pid : int, optional
            The process; by default the one that `load` was told.
        on_return : bool
            Fire at the function's return instead.
        replace : bool
            The functions do not run: what the program returns is their result.
        refused : dict, optional
            Takes the places that cannot be probed, by index, with the reason; without it the first one raises and
            nothing is attached.
        wait : bool
            A file that the process has not mapped yet is attached when it is; else that is an error.

        Raises
        ------
        MissingCapability
            A place that cannot be probed by a jump.
        UnknownSymbol
            The file is not mapped.
        """
        from workbench.runtime.attach import Request, Spot
        from workbench.runtime.attach.files import addresses_of

        process = self._process(pid)
        one = self.programs[program]
        kind = one.kind(on_return=on_return, replace=replace)
        count = len(offsets)
        tags = [0] * count if cookies is None else [int(c) for c in cookies]
        marks = [0] * count if semaphores is None else [int(s) for s in semaphores]
        if not wait:
            addresses_of(process.pid, path, [])  # a file that is not mapped is no fault of a place
        holder: list[Link] = []
        requests = [
            Request(one.probe, Spot(path, int(offset), mark), kind, tag, one.probe_maps, holder=holder)
            for offset, tag, mark in zip(offsets, tags, marks, strict=True)
        ]
        failed: list[tuple[Request, WorkbenchError]] = []
        with process.lock:
            holder += process.attach_many(requests, None if refused is None else failed, wait=wait)
        if refused is not None:
            numbers = {id(request): number for number, request in enumerate(requests)}
            refused.update((numbers[id(request)], error.message) for request, error in failed)
        return self._noted(program, Links(f"{program} on {count} places of {path}", holder, process))

    def attach_later(
        self,
        program: str,
        site: str,
        *,
        pid: int | None = None,
        cookie: int = 0,
        on_return: bool = False,
        replace: bool = False,
    ) -> Links:
        """Attach to LIBRARY:FUNCTION as soon as the process has it (now, if it has)."""
        from workbench.runtime.attach import Request

        process, one = self._process(pid), self.programs[program]
        kind = one.kind(on_return=on_return, replace=replace)
        holder: list[Link] = []
        request = Request(one.probe, site, kind, cookie, one.probe_maps, holder=holder)
        with process.lock:
            holder += process.attach_many([request], wait=True)
        return self._noted(program, Links(f"{program} on {site}", holder, process))

    def attach_sampling(
        self, program: str, hertz: int, *, pid: int | None = None, driver: Driver = "auto"
    ) -> Sampling:
        """Run a program of section perf_event at intervals of the CPU time of each thread of a process.

        Parameters
        ----------
        program : str
        hertz : int
            Samples for a second of a thread's CPU time.
        pid : int, optional
            The process; by default the one that `load` was told.
        driver : {"auto", "perf", "timer"}
            What tells the threads; see `workbench.runtime.attach.sampling`.

        Raises
        ------
        NotPermitted, MissingCapability, TargetGone
        """
        from workbench.runtime.attach import Request
        from workbench.runtime.attach.sampling import Sampling

        one = self.programs[program]
        if not 0 < hertz <= 1_000_000:
            raise BadSpec(f"{hertz} samples a second", "1 to 1,000,000")
        request = Request(one.probe, f"{hertz} Hz", maps=one.probe_maps)
        process, period = self._process(pid), 1_000_000_000 // hertz
        return self._keep(
            Sampling(process, request, period, left_out=self.left_out, driver=driver)
        )

    def attach_interval(self, program: str, period: int, *, cookie: int = 0) -> Interval:
        """Run a program of section perf_event every `period` ns of wall-clock time; see `Interval`."""
        from workbench.runtime.intervals import Interval

        one = self.programs[program]
        if self._timers is not None:
            self._timers.use(one)
        return self._keep(Interval(one, self.space, period, cookie=cookie))

    def attach_raw_tracepoint(
        self, program: str, name: str, *, cookie: int = 0, pid: int | None = None
    ) -> Links:
        """Attach to sys_enter or sys_exit of a process; see `workbench.runtime.tracepoints`.

        Raises
        ------
        MissingCapability
            Another tracepoint: the kernel's alone.
        """
        from workbench.runtime.tracepoints import raw_tracepoint

        return self._attach_calls(program, raw_tracepoint(name), pid, cookie)

    def attach_tracepoint(
        self, program: str, category: str, name: str, *, cookie: int = 0, pid: int | None = None
    ) -> Links:
        """Attach to a tracepoint of category syscalls or raw_syscalls; the same errors."""
        from workbench.runtime.tracepoints import tracepoint

        return self._attach_calls(program, tracepoint(category, name), pid, cookie)

    def _attach_calls(self, program: str, point: CallPoint, pid: int | None, cookie: int) -> Links:
        from workbench.runtime.tracepoints import call_request

        one = self.programs[program]
        links: list[Link] = []
        request = call_request(point, one, one.probe_maps, cookie, links)
        links += self._process(pid).system_calls.attach_many([request])
        return self._noted(program, Links(f"{program} on {point.name}", links))

    def refresh(self) -> None:
        """Attach to what the processes have new: libraries loaded since, programs replaced (exec), at once."""
        for process in self._processes.values():
            process.look()

    def reaches(self, pid: int) -> bool:
        """A process is entered, or has inherited the hooks of one that is and still runs the same program."""
        processes = self._processes
        return pid in processes or any(one.family.has(pid) for one in processes.values())

    def not_hooked(self) -> dict[str, str]:
        """System calls in the code of the entered processes that programs do not see, and why."""
        found: dict[str, str] = {}
        for process in self._processes.values():
            found |= process.system_calls.refused
        return found

    def _process(self, pid: int | None) -> Process:
        """The process that attachments go to, entered when this is the first."""
        pid = self.default_pid if pid is None else pid
        if pid is None:
            raise BadSpec(
                "user space enters one process at a time", "name it: attach(..., pid=1234)"
            )
        if pid not in self._processes:
            self._processes[pid] = enter_process(pid, self.space)
        return self._processes[pid]

    def _noted(self, program: str, link: Links) -> Links:
        """Leave a note of it for `workbench bpf links`."""
        link.note = announce_link(self.space, self.programs[program].number, program, link.links)
        return self._keep(link)

    def _keep(self, link: _Link) -> _Link:
        self._links = [old for old in self._links if old.attached]
        self._links.append(link)
        if self._timers is not None:
            self._timers.learn(self._processes.values())
        return link

    @property
    def printed(self) -> Lines:
        """Lines that the programs printed (bpf_printk), wherever they ran; iterating gives those that wait."""
        if self._lines is None:
            from workbench.runtime.helpers.printk import Lines

            self._lines = Lines(self.space)
        return self._lines

    def test_run(self, program: str, data: bytes = bytes(64), repeat: int = 1) -> tuple[int, int]:
        """As BPF_PROG_TEST_RUN: (return value, mean duration of one run in ns).

        `data` is the packet of a network program, the context of every other.
        """
        from workbench.runtime.contexts import make_context
        from workbench.runtime.helpers.faults import protect
        from workbench.runtime.helpers.native import execute_repeat

        one = self.programs[program]
        protect()
        if self._timers is not None:
            self._timers.use(one)
        # Whatever the program may read is there; so is what those may that it tail-calls.
        least = max(other.verdict.context_size for other in self.programs.values())
        context = make_context(one.linked.type, data, least)
        value, spent = execute_repeat(
            one.code.address, context.address, current_run(self.space), repeat
        )
        return value & 0xFFFFFFFF, spent // max(repeat, 1)

    def close(self) -> None:
        """Detach all links and unload; safe to call twice."""
        self.detach()
        if self._closed:
            return
        self._closed = True
        if self._timers is not None:
            leave_timers(self._timers, self.programs.values(), self.all_maps)
        for note in self._notes:
            note.close()
        self.globals.clear()
        self._holding.close()
        for program in self.programs.values():
            program.close()
        leave_space(self.space)

    def detach(self) -> None:
        """Close every link made through this object and leave the processes; maps stay readable."""
        links, self._links = self._links, []
        for one in reversed(links):
            one.close()
        processes, self._processes = self._processes, {}
        for process in processes.values():
            leave_process(process)


def load(
    obj: BpfObject,
    *,
    constants: Mapping[str, int | bool] | None = None,
    map_sizes: Mapping[str, int] | None = None,
    programs: Iterable[str] | None = None,
    namespace: str | None = None,
    pid: int | None = None,
    left_out: int = 0,
    attach_types: Mapping[str, int] | None = None,
    **verifier: Any,
) -> Loaded:
    """Load an object into user space.

    Parameters
    ----------
    obj : BpfObject
    constants : dict, optional
        Values of `const volatile` knobs by name, set before the verifier sees them.
    map_sizes : dict, optional
        max_entries (bytes for rings) by map name.
    programs : iterable of str, optional
        Load only these; all by default.
    namespace : str, optional
        Put the maps into the namespace of this name, where other processes find those pinned by name; it stays. By
        default into one of its own that vanishes with its last user.
    pid : int, optional
        Process that attachments without a pid of their own go to.
    left_out : int
        Thread that is not sampled. A process that records itself does so from a child, so its rings' reader is outside.
    attach_types : dict, optional
        Accepted for the kernel backend's sake: user space has one way to attach a function.
    **verifier
        Options of `workbench.runtime.verifier.verify`.

    Raises
    ------
    VerifierRejected
        Instruction, C line, registers and the shortest failing path.
    MissingCapability
        A helper, map or program type that user space lacks, by name.
    """
    from workbench.runtime.verifier import verify as verify_program

    linked = linked_for_user_space(obj, constants=constants, map_sizes=map_sizes, programs=programs)
    verdicts = {}
    for name, program in linked.programs.items():
        verdicts[name] = verify_program(program, linked, **verifier)
        refuse_missing_helpers(program, verdicts[name])
    space, loaded = enter_space(namespace), None
    try:
        loaded = Loaded(obj, linked, space, pid)
        loaded.left_out = left_out
        for name, program in linked.programs.items():
            loaded.add(Program(program, verdicts[name], linked.maps, loaded.all_maps))
        loaded.fill()
    except BaseException:
        if loaded is not None:
            loaded.close()
        else:
            leave_space(space)
        raise
    return loaded
