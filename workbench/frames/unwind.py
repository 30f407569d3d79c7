"""Call chains from copied registers and stack bytes, for code built without frame pointers.

A sampler copies, at each sample, three registers and the top of the user stack; `Unwinder` turns a batch of them
into call chains with the call frame information (`.eh_frame`) of the files that the process has mapped.

What a BPF program delivers per sample::

    struct {
        __u64 ip;               // x86-64: regs->ip   aarch64: regs->pc
        __u64 sp;               // x86-64: regs->sp   aarch64: regs->sp
        __u64 fp;               // x86-64: regs->bp   aarch64: regs->regs[29]
        __u64 lr;               // aarch64 only: regs->regs[30]
        __u32 stack_length;     // bytes of `stack` that were copied, 0 or more
        __u8 stack[STACK_MAX];  // memory from sp upward: stack[0] is the byte at sp
    };

`regs` are the *user* registers, also when the sample hit the kernel: `(struct pt_regs *)bpf_task_pt_regs(
bpf_get_current_task_btf())`, never the context of the perf event, which holds kernel registers then. Kernel threads
have none (`task->flags & PF_KTHREAD`). `bpf_probe_read_user` copies all or nothing, and the stack of a thread may
end before `sp + STACK_MAX`: copy up to the next page boundary first, then page by page, and stop at the first that
fails. 16 KiB hold the stacks of most programs; a chain cut by the copy has status TRUNCATED.

Columns for `Unwinder.unwind` then are views into the ring's records: `registers` with ip, sp, fp (and lr), `stacks`
the ring bytes themselves as one flat uint8 array, `offsets` where in it each `stack` field begins, `lengths` its
`stack_length`.

Return probes (uretprobe) of any tool replace return addresses in the stack by that of a trampoline in the mapping
``[uprobes]``; a chain ends there unless the originals are given as `returns`. They are in the list
``task->utask->return_instances`` (``struct return_instance``: field ``orig_ret_vaddr`` of every entry that is not
``chained``, following ``next``), innermost first.
"""

from __future__ import annotations

import contextlib
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from workbench.errors import BadSpec, MissingCapability
from workbench.frames.symbols.mappings import parse_maps, readable_place
from workbench.frames.symbols.ranges import find_perf_map, parse_perf_map
from workbench.frames.symbols.vdso import vdso_image
from workbench.frames.unwind_tables import UnwindTable, UnwindTables
from workbench.native.unwind import (
    AARCH64,
    FRAME_POINTER,
    LAZY,
    MAPPING,
    RETURN_PROBES,
    WANTED,
    X86_64,
    Status,
    unwind_batch,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

__all__ = ("FRAME_POINTER", "Status", "Unwinder", "Unwound")

CHUNK = 8192
MAX_VDSO = 1 << 20
MAX_GENERATED = 4 << 20
"""Bytes of a mapping without a file that are searched for known code."""
MAX_REFRESH_SECONDS = 5.0
MAX_PROCESSES = 4096
ANONYMOUS = "//anon"
"""How perf's mmap events name a mapping without a file; /proc/PID/maps gives it no name."""
_MACHINES = {"x86_64": X86_64, "amd64": X86_64, "aarch64": AARCH64, "arm64": AARCH64}


class Unwound(NamedTuple):
    """Call chains of a batch of samples.

    Attributes
    ----------
    addresses : uint64, shape (sum of lengths,)
        All chains end to end, innermost frame first: the sampled ip, then for each caller its return address minus
        one, which lies in the call instruction, so that function and line are those of the call. The address of a
        frame that a signal interrupted is exact.
    lengths : int32, shape (n,)
        Frames of each sample; 0 where the sample holds no user registers (ip 0).
    status : uint8, shape (n,)
        A `Status`, plus `FRAME_POINTER` where some step had no table and followed the frame pointer.
    """

    addresses: NDArray[np.uint64]
    lengths: NDArray[np.int32]
    status: NDArray[np.uint8]


# start, end, offset, path, build id (empty: not known) of a mapping
_Entry = tuple[int, int, int, str, str]


@dataclass(slots=True)
class _Process:
    mappings: NDArray[np.void]
    entries: list[_Entry]
    tables: list[UnwindTable | None] = field(default_factory=list)
    refresh_after: float = 0.0
    pause: float = 0.0


def _read_mappings(pid: int) -> list[_Entry]:
    text = Path(f"/proc/{pid}/maps").read_bytes()
    return sorted((*row, "") for row in parse_maps(text))


def _memory(pid: int, start: int, size: int) -> bytes:
    """Memory of a process; as much of it as can be read."""
    # OverflowError: the vsyscall page, above what a file position can be
    with contextlib.suppress(OSError, ValueError, OverflowError), Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        memory.seek(start)
        return memory.read(size)
    return b""


class Unwinder:
    """Unwinds samples of any number of processes.

    Parameters
    ----------
    tables : UnwindTables, optional
        Where tables come from; share one between unwinders.
    max_depth : int
        Most frames per sample; longer chains keep the innermost and have status DEPTH.
    live : bool
        Read `/proc` for processes that are not known and for addresses in no known mapping. False when samples of
        the past are unwound: the pid may be another process now.
    refresh_seconds : float
        A process's mappings are read again at most this often; the pause doubles, up to 5 s, while nothing changed.
    machine : int, optional
        ELF ``e_machine`` of the samples; default this machine.

    Raises
    ------
    MissingCapability
        No unwind rules for this machine.
    """

    def __init__(
        self,
        tables: UnwindTables | None = None,
        *,
        max_depth: int = 127,
        live: bool = True,
        refresh_seconds: float = 0.25,
        machine: int | None = None,
    ) -> None:
        self.tables = tables if tables is not None else UnwindTables()
        self.max_depth = max_depth
        self.live = live
        self.refresh_seconds = refresh_seconds
        found = _MACHINES.get(platform.machine()) if machine is None else machine
        if found is None:
            raise MissingCapability(
                f"no unwind rules for {platform.machine()}",
                "record with frame pointers only; x86-64 and aarch64 can be unwound",
            )
        self.machine = found
        self._processes: dict[int, _Process] = {}

    def set_mappings(self, pid: int, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
        """Declare the executable mappings of a process, as `/proc/PID/maps` gives them.

        Parameters
        ----------
        pid : int
            Process as it will be named in `unwind`.
        columns : mapping
            start, end, offset (int), path (str), optionally build_id (hex; a file that has another one by now is
            not used); any order. Frame ``mappings`` has these columns. Tables loaded before are kept.

        Raises
        ------
        BadSpec
            Mappings that overlap or end before they start.
        """
        build_ids = columns.get("build_id", [""] * len(columns["start"]))
        rows = zip(
            *(columns[name] for name in ("start", "end", "offset", "path")), build_ids, strict=True
        )
        self._set(pid, sorted((int(s), int(e), int(o), str(p), str(b)) for s, e, o, p, b in rows))

    def _set(self, pid: int, entries: list[_Entry]) -> None:
        ends = [0, *(entry[1] for entry in entries)]
        if any(e[0] < before or e[1] <= e[0] for e, before in zip(entries, ends, strict=False)):
            raise BadSpec(
                f"mappings of process {pid} overlap or are empty",
                "pass one row per executable line of /proc/PID/maps",
            )
        mappings = np.zeros(len(entries), MAPPING)
        if entries:
            mappings["start"] = [entry[0] for entry in entries]
            mappings["end"] = [entry[1] for entry in entries]
            mappings["flags"] = [RETURN_PROBES if entry[3] == "[uprobes]" else LAZY for entry in entries]
        process = _Process(mappings, entries, [None] * len(entries))
        if (earlier := self._processes.get(pid)) is not None:
            known = {entry: i for i, entry in enumerate(earlier.entries)}
            for i, entry in enumerate(entries):
                if (k := known.get(entry)) is not None:
                    mappings[i] = earlier.mappings[k]
                    process.tables[i] = earlier.tables[k]
            process.pause, process.refresh_after = earlier.pause, earlier.refresh_after
        self._processes[pid] = process

    def forget(self, pid: int) -> None:
        """Drop what is known of a process (it exited or called exec)."""
        self._processes.pop(pid, None)

    def inherit(self, pid: int, parent: int) -> None:
        """A process was forked: until it maps something else, its mappings are those of its parent.

        Lets a child be unwound that exits before its own mappings are read.
        """
        if (known := self._processes.get(parent)) is not None:
            self._processes[pid] = _Process(known.mappings.copy(), known.entries, list(known.tables))

    def refresh(self, pid: int) -> bool:
        """Read the mappings of a process again; True if they changed."""
        before = self._processes.get(pid)
        try:
            entries = _read_mappings(pid)
        except OSError:
            entries = []
        if before is not None and (not entries or before.entries == entries):
            return False  # a process that exits has no mappings left; what it had still explains its samples
        self._set(pid, entries)
        return bool(entries)

    def prepare(self, pid: int) -> int:
        """Load the tables of all files mapped by a process now, so that no sample waits for them.

        Returns
        -------
        int
            Rows of the process's tables.
        """
        if self.live:
            self.refresh(pid)
        process = self._processes.get(pid)
        if process is None:
            return 0
        process.mappings["flags"] |= np.where(process.mappings["flags"] & LAZY, WANTED, 0).astype(np.uint32)
        self._load_wanted(pid, process)
        return int(process.mappings["count"].sum())

    def unwind(
        self,
        pids: NDArray[np.int32],
        registers: NDArray[Any],
        stacks: NDArray[np.uint8],
        offsets: NDArray[np.int64],
        lengths: NDArray[np.int32],
        returns: NDArray[np.uint64] | None = None,
    ) -> Unwound:
        """Call chains of a batch of samples.

        Parameters
        ----------
        pids : int32, shape (n,)
            Process of each sample.
        registers : uint64, shape (n, 3) or (n, 4), or structured with uint64 fields ip, sp, fp and optionally lr
        stacks : uint8, shape (bytes,)
            Where the copied stacks are, end to end or with anything between them.
        offsets : int64, shape (n,)
            Begin of each sample's stack bytes in `stacks`.
        lengths : int32, shape (n,)
            Bytes copied, the first from address sp.
        returns : uint64, shape (n, k), optional
            Original return addresses of functions with a return probe, see above.

        Raises
        ------
        BadSpec
            Arrays that do not fit each other.
        """
        values = _register_matrix(registers)
        n = len(values)
        if not len(pids) == len(offsets) == len(lengths) == n:
            raise BadSpec(
                f"{len(pids)} pids, {n} registers, {len(offsets)} offsets and {len(lengths)} lengths",
                "pass one of each per sample",
            )
        parts = [
            self._chunk(
                pids[part],
                values[part],
                stacks,
                offsets[part],
                lengths[part],
                None if returns is None else returns[part],
            )
            for part in (slice(i, i + CHUNK) for i in range(0, n, CHUNK))
        ]
        if len(parts) == 1:
            return parts[0]
        return Unwound(
            np.concatenate([np.empty(0, np.uint64), *(p.addresses for p in parts)]),
            np.concatenate([np.empty(0, np.int32), *(p.lengths for p in parts)]),
            np.concatenate([np.empty(0, np.uint8), *(p.status for p in parts)]),
        )

    def _chunk(
        self,
        pids: NDArray[np.int32],
        registers: NDArray[np.uint64],
        stacks: NDArray[np.uint8],
        offsets: NDArray[np.int64],
        lengths: NDArray[np.int32],
        returns: NDArray[np.uint64] | None,
    ) -> Unwound:
        unique, inverse = np.unique(pids, return_inverse=True)
        space_of: NDArray[np.int32] = inverse.astype(np.int32)
        for pid in unique.tolist():
            if pid not in self._processes:
                if self.live:
                    self.refresh(pid)
                else:
                    self._processes[pid] = _Process(np.zeros(0, MAPPING), [])
        self._trim(set(unique.tolist()))
        # Each further pass has at least one more table or mapping than the one before, so this ends.
        while True:
            processes = [self._processes[pid] for pid in unique.tolist()]
            found = Unwound(
                *unwind_batch(
                    [process.mappings for process in processes],
                    space_of,
                    registers,
                    stacks,
                    offsets,
                    lengths,
                    self.machine,
                    self.max_depth,
                    returns,
                )
            )
            reasons = found.status & ~np.uint8(FRAME_POINTER)
            again = False
            for k in np.unique(space_of[reasons == Status.WANTS_TABLE]).tolist():
                again |= self._load_wanted(int(unique[k]), processes[k])
            if not again and self.live:
                for k in np.unique(space_of[reasons == Status.NO_MAPPING]).tolist():
                    again |= self._refresh_if_due(int(unique[k]))
            if not again:
                return found

    def _trim(self, needed: set[int]) -> None:
        """Forget the processes known longest, so that recording a whole machine for hours holds memory flat."""
        excess = len(self._processes) - MAX_PROCESSES
        for pid in [pid for pid in self._processes if pid not in needed][: max(excess, 0)]:
            del self._processes[pid]

    def _refresh_if_due(self, pid: int) -> bool:
        process = self._processes[pid]
        now = time.monotonic()
        if now < process.refresh_after:
            return False
        changed = self.refresh(pid)
        pause = self.refresh_seconds if changed else min(MAX_REFRESH_SECONDS, process.pause * 2)
        process = self._processes[pid]
        process.pause = max(pause, self.refresh_seconds)
        process.refresh_after = now + process.pause
        return changed

    def _load_wanted(self, pid: int, process: _Process) -> bool:
        wanted = np.flatnonzero(process.mappings["flags"] & WANTED)
        for i in wanted.tolist():
            start, end, offset, path, _ = process.entries[i]
            table = self._table(pid, process.entries[i])
            process.mappings["flags"][i] &= ~np.uint32(LAZY | WANTED)
            if table is not None and table.machine == self.machine and len(table.rows):
                # The kernel's events give memory without a file its own address as the offset.
                begin = 0 if _is_anonymous(path) else offset
                process.tables[i] = table
                process.mappings["bias"][i] = table.bias(start, begin, end - start)
                process.mappings["count"][i] = len(table.rows)
                process.mappings["rows"][i] = table.rows.ctypes.data
        return len(wanted) > 0

    def _table(self, pid: int, entry: _Entry) -> UnwindTable | None:
        start, end, _, path, build_id = entry
        if path == "[vdso]":
            size = min(end - start, MAX_VDSO)
            image = _memory(pid, start, size) if self.live else b""
            # That of this process is the same code.
            return self.tables.of_image(image if len(image) == size else vdso_image())
        if _is_anonymous(path):
            code = _memory(pid, start, min(end - start, MAX_GENERATED)) if self.live else b""
            if code or not self.live:
                return self.tables.of_generated_code(code, self.machine)
            functions = parse_perf_map(find_perf_map(pid))  # the process is gone, what it wrote is not
            return self.tables.of_perf_map(functions, start, end, self.machine)
        place = readable_place(pid, start, end, path) if self.live else path
        table = self.tables.of_file(place) if place.startswith("/") else None
        return table if table is None or build_id in ("", table.build_id) else None


def _is_anonymous(path: str) -> bool:
    return not path.startswith("/") or path == ANONYMOUS


def _register_matrix(registers: ArrayLike) -> NDArray[np.uint64]:
    values = np.asarray(registers)
    if values.dtype.names is None:
        return np.ascontiguousarray(values, np.uint64)
    names = ["ip", "sp", "fp", *(["lr"] if "lr" in values.dtype.names else [])]
    return np.stack([values[name].astype(np.uint64, copy=False) for name in names], axis=1)
