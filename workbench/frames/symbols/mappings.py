"""What was mapped where, in which process, when: the first step from an address to a name."""

from __future__ import annotations

import contextlib
import os
import re
import time as clock
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import NotPermitted, TargetGone
from workbench.frames.symbols.elffile import build_id_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ("COLUMNS", "Mappings", "build_id_at", "parse_maps", "readable_by", "readable_place")

COLUMNS = ("time", "pid", "start", "end", "offset", "path", "build_id")
_LINE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) \S+ (\d+)[ \t]*(.*)")
_OCTAL = re.compile(rb"\\([0-7]{3})")
_DELETED = " (deleted)"
MAX_PLACES = 4
_build_ids: dict[tuple[int, int, int, int], str] = {}
_places: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}


def parse_maps(text: bytes, *, executable_only: bool = True) -> list[tuple[int, int, int, str]]:
    """Rows (start, end, offset, path) of a /proc/PID/maps file; lines that do not parse are left out."""
    rows = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None or (executable_only and b"x" not in match[3]):
            continue
        # The kernel writes a newline in a path as \012.
        path = _OCTAL.sub(lambda m: bytes([int(m[1], 8) & 255]), match[6])
        rows.append((int(match[1], 16), int(match[2], 16), int(match[4], 16), os.fsdecode(path)))
    return rows


def readable_place(pid: int, start: int, end: int, path: str) -> str:
    """Where the file of a mapping can be read now, empty if nowhere.

    ``/proc/PID/map_files`` is the mapped file itself, also after it was deleted or in another mount namespace; it
    needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE. ``/proc/PID/root`` needs only the right to trace the process.
    """
    plain = path.removesuffix(_DELETED)
    if not plain.startswith("/"):
        return ""
    candidates = (f"/proc/{pid}/map_files/{start:x}-{end:x}", f"/proc/{pid}/root{plain}")
    for one in candidates:
        if one.startswith(f"/proc/{pid}/root") and plain != path:
            continue
        # os.path.isfile: a process that exits here makes the look-up fail with ESRCH, which Path.is_file raises.
        if os.access(one, os.R_OK) and os.path.isfile(one):  # noqa: PTH113
            return one
    return plain if plain == path and os.access(plain, os.R_OK) else ""


def build_id_at(place: str) -> str:
    """Build id of the file at a path, remembered while the file does not change; empty where it has none."""
    try:
        status = Path(place).stat()
    except OSError:
        return ""
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _build_ids:
        _build_ids[key] = build_id_of(place)
    return _build_ids[key]


def readable_by(path: str, build_id: str) -> list[str]:
    """Where `snapshot` found this file readable, beside its own path; only what is still the same file."""
    found = []
    for place, identity in reversed(_places.get((path, build_id), {}).items()):
        with contextlib.suppress(OSError):
            status = Path(place).stat()
            if (status.st_dev, status.st_ino) == identity:
                found.append(place)
    return found


def _text(values: Any, count: int) -> list[str]:
    """A text column in any of the forms that frames use, as a list of str."""
    if hasattr(values, "to_pylist"):
        values = values.to_pylist()
    out = [
        value.decode("utf-8", "replace")
        if isinstance(value, bytes)
        else ""
        if value is None
        else str(value)
        for value in values
    ]
    if len(out) != count:
        raise ValueError(f"text column of {len(out)} rows, expected {count}")
    return out


class Mappings:
    """Mappings of many processes over time.

    Rows are kept in the order added. Where two of a process overlap, the later in time (then the later added) wins.
    """

    def __init__(self) -> None:
        self.time: NDArray[np.int64] = np.zeros(0, np.int64)
        self.pid: NDArray[np.int32] = np.zeros(0, np.int32)
        self.start: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.end: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.offset: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.path: list[str] = []
        self.build_id: list[str] = []
        self._index: dict[int, _Process] = {}
        self._groups: dict[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.pid)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> Mappings:
        """Mappings from the columns of frame ``mappings``."""
        self = cls()
        self.add(columns)
        return self

    def add(self, columns: Mapping[str, Any]) -> None:
        """Add rows: the columns of frame ``mappings``, equally long."""
        pid = np.asarray(columns["pid"], np.int32)
        self.pid = np.concatenate([self.pid, pid])
        self.time = np.concatenate([self.time, np.asarray(columns["time"], np.int64)])
        self.start = np.concatenate([self.start, np.asarray(columns["start"], np.uint64)])
        self.end = np.concatenate([self.end, np.asarray(columns["end"], np.uint64)])
        self.offset = np.concatenate([self.offset, np.asarray(columns["offset"], np.uint64)])
        self.path += _text(columns["path"], len(pid))
        self.build_id += _text(columns["build_id"], len(pid))
        if len({len(getattr(self, name)) for name in COLUMNS}) != 1:
            raise ValueError("columns of mappings differ in length")
        self._groups = None
        for one in np.unique(pid).tolist():
            self._index.pop(one, None)

    def columns(self) -> dict[str, Any]:
        """All rows as the columns of frame ``mappings``."""
        return {name: getattr(self, name) for name in COLUMNS}

    @staticmethod
    def snapshot(
        pid: int, *, executable_only: bool = True, time: int | None = None
    ) -> dict[str, Any]:
        """The mappings of a live process now, as the columns of frame ``mappings``.

        Parameters
        ----------
        pid : int
            Process.
        executable_only : bool
            False adds data, heap, stack and anonymous mappings, so that data addresses resolve to a mapping.
        time : int, optional
            Time of the rows, ns of CLOCK_MONOTONIC; default now.

        Returns
        -------
        dict
            numpy arrays, and lists of str for ``path`` and ``build_id``. Add it with `add`, write it with
            ``sink.append("mappings", ...)``.

        Raises
        ------
        TargetGone
            No such process.
        NotPermitted
            The process belongs to another user.
        """
        now = clock.clock_gettime_ns(clock.CLOCK_MONOTONIC) if time is None else time
        try:
            text = Path(f"/proc/{pid}/maps").read_bytes()
        except (FileNotFoundError, ProcessLookupError) as error:
            raise TargetGone(
                f"process {pid} does not exist", "check the pid; it may have exited"
            ) from error
        except PermissionError as error:
            raise NotPermitted(
                f"mappings of process {pid} may not be read", "run as its user or as root"
            ) from error
        rows = parse_maps(text, executable_only=executable_only)
        build_ids: dict[str, str] = {}
        for start, end, _offset, path in rows:
            if path in build_ids or path == "[vdso]":
                continue
            place = readable_place(pid, start, end, path)
            build_ids[path] = build_id_at(place) if place else ""
            if place:
                _remember(path, build_ids[path], place)
        if any(path == "[vdso]" for *_, path in rows):
            from workbench.frames.symbols.vdso import vdso_build_id

            build_ids["[vdso]"] = vdso_build_id()
        return {
            "time": np.full(len(rows), now, np.int64),
            "pid": np.full(len(rows), pid, np.int32),
            "start": np.array([row[0] for row in rows], np.uint64),
            "end": np.array([row[1] for row in rows], np.uint64),
            "offset": np.array([row[2] for row in rows], np.uint64),
            "path": [row[3] for row in rows],
            "build_id": [build_ids.get(row[3], "") for row in rows],
        }

    def find(
        self,
        pids: NDArray[np.int32] | int,
        addresses: NDArray[np.uint64],
        times: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Row of the mapping that holds each address, -1 where none does.

        Parameters
        ----------
        pids : int32, shape (n,) or a scalar
            Process of each address.
        addresses : uint64, shape (n,)
            Addresses.
        times : int64, shape (n,), optional
            When each was seen (ns, CLOCK_MONOTONIC). The latest mapping not younger than that wins (exec and reuse
            of a pid); before the first one seen, the earliest. Without times the latest mapping wins.
        """
        addresses = np.asarray(addresses, np.uint64)
        pids = np.broadcast_to(np.asarray(pids, np.int32), addresses.shape)
        out = np.full(len(addresses), -1, np.int64)
        if not len(addresses):
            return out
        if pids[0] == pids[-1] and (pids == pids[0]).all():
            return self._process(int(pids[0])).find(addresses, times)
        order = np.argsort(pids, kind="stable")
        ordered = pids[order]
        cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        for rows in np.split(order, cuts):
            when = None if times is None else times[rows]
            out[rows] = self._process(int(pids[rows[0]])).find(addresses[rows], when)
        return out

    def _rows_of(self, pid: int) -> NDArray[np.int64]:
        if self._groups is None:
            order = np.argsort(self.pid, kind="stable")
            values, first = np.unique(self.pid[order], return_index=True)
            parts = np.split(order, first[1:])
            self._groups = dict(zip(values.tolist(), parts, strict=False))
        return self._groups.get(pid, np.zeros(0, np.int64))

    def _process(self, pid: int) -> _Process:
        found = self._index.get(pid)
        if found is None:
            rows = self._rows_of(pid)
            found = _Process(rows, self.start[rows], self.end[rows], self.time[rows])
            self._index[pid] = found
        return found


class _Process:
    """The mappings of one process cut into elementary ranges, each with the rows that cover it, by time."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        start: NDArray[np.uint64],
        end: NDArray[np.uint64],
        time: NDArray[np.int64],
    ) -> None:
        good = end > start
        rows, start, end, time = rows[good], start[good], end[good], time[good]
        self.bounds = np.unique(np.concatenate([start, end]))
        first = np.searchsorted(self.bounds, start)
        count = np.searchsorted(self.bounds, end) - first
        total = int(count.sum())
        base = np.repeat(np.cumsum(count) - count, count)
        segment = np.repeat(first, count) + np.arange(total) - base
        covering = np.repeat(np.arange(len(rows)), count)
        self.times = np.unique(time)
        rank = np.searchsorted(self.times, time)[covering] if len(rows) else np.zeros(0, np.int64)
        order = np.lexsort((covering, rank, segment))
        self.rows = rows[covering[order]]
        self._scale = len(self.times) + 1
        self._keys = segment[order] * self._scale + rank[order]
        self._begin = np.searchsorted(segment[order], np.arange(len(self.bounds) + 1))

    def find(
        self, addresses: NDArray[np.uint64], times: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        if not len(self.bounds):
            return np.full(len(addresses), -1, np.int64)
        segment = np.searchsorted(self.bounds, addresses, "right") - 1
        inside = np.maximum(segment, 0)
        begin, end = self._begin[inside], self._begin[inside + 1]
        found = (segment >= 0) & (end > begin)
        if times is None:
            at = end - 1
        else:
            rank = np.searchsorted(self.times, times, "right") - 1
            key = inside * self._scale + np.maximum(rank, 0)
            at = np.where(rank >= 0, np.searchsorted(self._keys, key, "right") - 1, begin)
            at = np.maximum(at, begin)
        return np.where(found, self.rows[np.where(found, at, 0)], -1)


def _remember(path: str, build_id: str, place: str) -> None:
    """Note where a file can be read; take its symbols now if its own path will not lead to it later."""
    known = _places.setdefault((path, build_id), {})
    if place in known:
        return
    try:
        status = Path(place).stat()
    except OSError:
        return
    while len(known) >= MAX_PLACES:
        del known[next(iter(known))]
    known[place] = (status.st_dev, status.st_ino)
    if path.endswith(_DELETED) or not _same(path, place):
        from workbench.frames.symbols.store import default_store

        default_store().get(path, build_id, [place])


def _same(own: str, place: str) -> bool:
    try:
        return Path(own).samefile(place)
    except OSError:
        return False
