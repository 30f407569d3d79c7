"""Control groups (version 2) as scopes: find them, make one for a command, remove it whatever happens.

A group that was made is noted on disk: of a killed controller, the next scheduler's start and `workbench sched status`
move what is still in it to where it came from, and remove it.

Source: Documentation/admin-guide/cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from workbench.errors import BadSpec, MissingCapability, NotPermitted, TargetGone
from workbench.objects.compile import cache_folder
from workbench.sched.borrowed import start_time
from workbench.sched.state import members

__all__ = (
    "MadeCgroup",
    "Population",
    "cgroup_of",
    "mount_point",
    "move",
    "remove_left",
    "scope_folder",
)

_ROUNDS = 20  # for processes that fork while they are moved
_PREFIX = "workbench-"


def mount_point() -> Path:
    """Where the hierarchy of version 2 is mounted.

    Raises
    ------
    MissingCapability
        It is not.
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        if tail.split()[:1] == ["cgroup2"]:
            return Path(head.split()[4].replace("\\040", " "))
    raise MissingCapability(
        "no cgroup hierarchy of version 2 is mounted",
        "mount -t cgroup2 none /sys/fs/cgroup, or use --scope pid",
    )


def cgroup_of(pid: int | str = "self") -> Path:
    """Folder of the cgroup (version 2) that a process is in.

    Raises
    ------
    TargetGone
        There is no such process.
    MissingCapability
        Its cgroup cannot be seen from here.
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError as error:
        raise TargetGone(f"there is no process {pid}", "check the pid") from error
    for line in lines:
        if line.startswith("0::"):
            folder = mount_point() / line[3:].lstrip("/")
            if ".." not in folder.parts and (folder / "cgroup.procs").exists():
                return folder
    raise MissingCapability(
        f"the cgroup of process {pid} cannot be seen from here",
        "run outside of the container, or use --scope pid",
    )


def parse_scope(text: str) -> tuple[str, Path | None]:
    """What an option ``--scope`` says: ("pid", None), ("cgroup", None) for a new one, or ("cgroup", folder).

    Raises
    ------
    BadSpec
        It says something else.
    TargetGone
        There is no such cgroup.
    """
    kind, colon, place = text.partition(":")
    if kind not in ("pid", "cgroup") or bool(colon) != bool(place) or (kind == "pid" and place):
        raise BadSpec(
            f"--scope {text!r} is not known",
            "pid (the command and what it forks), cgroup (a new one for the command), or cgroup:DIR",
        )
    return kind, scope_folder(place) if place else None


def scope_folder(cgroup: str | Path) -> Path:
    """A cgroup that may be a scope: there, and not the root of all.

    Raises
    ------
    BadSpec
        It is the root, or no cgroup.
    TargetGone
        There is none.
    """
    folder = Path(cgroup)
    if folder.is_dir() and not (folder / "cgroup.type").exists():
        raise BadSpec(
            f"{folder} is not a cgroup, or the root of all, which has the kernel's own threads",
            "give the folder of a cgroup below the root",
        )
    if not (folder / "cgroup.procs").is_file():
        raise TargetGone(
            f"there is no cgroup {folder}",
            "give its folder, such as /sys/fs/cgroup/system.slice/nginx.service",
        )
    return folder.resolve()


class Population:
    """Watches whether processes are in a cgroup or below it.

    Raises
    ------
    TargetGone
        There is no such cgroup.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._file = (folder / "cgroup.events").open("rb", buffering=0)
        except OSError as error:
            raise TargetGone(f"there is no cgroup {folder}", "it has been removed") from error

    def close(self) -> None:
        """Stop watching."""
        self._file.close()

    @property
    def state(self) -> str:
        """ "populated", "empty", or "removed"."""
        try:
            text = os.pread(self._file.fileno(), 4096, 0)
        except OSError:
            return "removed"
        return "populated" if b"populated 1" in text else "empty"

    def wait(self, seconds: float) -> bool:
        """Wait this long, or until nobody is left; whether somebody is still there."""
        end = time.monotonic() + seconds
        poll = select.poll()
        poll.register(
            self._file, select.POLLPRI
        )  # comes when the file has changed since it was read
        while self.state == "populated":
            left = end - time.monotonic()
            if left <= 0:
                return True
            poll.poll(left * 1000)
        return False


class MadeCgroup:
    """A cgroup below this process's own, made for a command and what it starts.

    Attributes
    ----------
    folder : Path

    Raises
    ------
    NotPermitted
        This user may not make one.
    """

    def __init__(self) -> None:
        me = os.getpid()
        self.folder = cgroup_of() / f"{_PREFIX}{me}-{start_time(me)}"
        self._note = _notes() / f"{me}-{start_time(me)}.cgroup"
        with contextlib.suppress(OSError):  # a full disk: it is found by its name then
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._note.write_text(str(self.folder))
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            self._note.unlink(missing_ok=True)
            raise NotPermitted(
                f"cannot make the cgroup {self.folder}: {error.strerror}",
                "be root, or use --scope pid",
            ) from error

    def enter(self, pid: int) -> None:
        """Move a process in.

        Raises
        ------
        TargetGone
            It has ended.
        """
        move(pid, self.folder)

    def end(self, patience: float = 5.0) -> None:
        """Ask every process in it to end, insist after `patience` seconds; safe to call when nobody is left."""
        with contextlib.suppress(TargetGone):
            for pid in members(self.folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                    os.kill(pid, signal.SIGCONT)
            population = Population(self.folder)
            try:
                if population.wait(patience):
                    with contextlib.suppress(OSError):
                        (self.folder / "cgroup.kill").write_text("1")
                    population.wait(patience)
            finally:
                population.close()

    def remove(self) -> None:
        """Move what is left in it to the cgroup above and remove it; safe to call twice."""
        _remove(self.folder)
        with contextlib.suppress(OSError):
            self._note.unlink(missing_ok=True)


def move(pid: int, folder: Path) -> None:
    """Move a process to a cgroup.

    Raises
    ------
    TargetGone
        The process has ended, or the cgroup is gone.
    NotPermitted
        The user may not, or the cgroup takes no processes.
    """
    try:
        (folder / "cgroup.procs").write_text(str(pid))
    except (ProcessLookupError, FileNotFoundError) as error:
        raise TargetGone(f"cannot move process {pid} to {folder}: one of them is gone") from error
    except OSError as error:
        raise NotPermitted(
            f"cannot move process {pid} to the cgroup {folder}: {error.strerror}",
            "a cgroup takes processes when it has no children with controllers (cgroup.subtree_control)",
        ) from error


def _remove(folder: Path) -> None:
    for _ in range(_ROUNDS):
        try:
            inside = members(folder)
        except TargetGone:
            return
        for pid in inside:
            for above in (folder.parent, mount_point()):
                with contextlib.suppress(TargetGone, NotPermitted):
                    move(pid, above)
                    break
        with contextlib.suppress(OSError):
            for below, _, _ in os.walk(folder, topdown=False):
                Path(below).rmdir()
        if not folder.exists():
            return
        if not inside:
            time.sleep(0.01)  # a process that ends holds its cgroup a moment longer


def _notes() -> Path:
    return cache_folder() / "sched"


def remove_left() -> int:
    """Remove the cgroups that controllers of this user made and were killed; returns how many there were."""
    found: dict[Path, Path | None] = {}
    for note in _notes().glob("*-*.cgroup"):
        with contextlib.suppress(OSError, ValueError):
            found[Path(note.read_text())] = note
    with contextlib.suppress(OSError, MissingCapability, TargetGone):
        for folder in cgroup_of().glob(f"{_PREFIX}*-*"):
            found.setdefault(folder, None)
    removed = 0
    for folder, noted in found.items():
        with contextlib.suppress(OSError, ValueError):
            pid, _, start = folder.name.removeprefix(_PREFIX).partition("-")
            if not folder.name.startswith(_PREFIX) or start_time(int(pid)) == int(start):
                continue
            removed += folder.exists()
            _remove(folder)
            if noted is not None:
                noted.unlink(missing_ok=True)
    return removed
