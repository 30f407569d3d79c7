"""What the kernel says of sched_ext: which scheduler is in charge, which tasks it has, what it counted.

Source: /sys/kernel/sched_ext (kernel/sched/ext.c) and sched_setscheduler(2); SCHED_EXT is policy 7 of
include/uapi/linux/sched.h.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import MissingCapability, TargetGone

__all__ = ("SCHED_EXT", "State", "holders", "members", "policies", "read_state", "threads")

SCHED_EXT = 7
_SYSFS = Path("/sys/kernel/sched_ext")


@dataclass(frozen=True)
class State:
    """`state` is enabled, enabling, disabling or disabled; `name` the scheduler in charge, else empty; `loads` how many
    schedulers were switched on since boot; `events` the kernel's own counters of the scheduler in charge.
    """

    state: str
    name: str
    loads: int
    events: dict[str, int]

    @property
    def enabled(self) -> bool:
        """A scheduler is in charge, or about to be."""
        return self.state not in ("disabled", "")


def read_state() -> State:
    """The kernel's state of sched_ext.

    Raises
    ------
    MissingCapability
        The kernel has no sched_ext.
    """
    try:
        state = (_SYSFS / "state").read_text().strip()
    except OSError as error:
        raise MissingCapability(
            "this kernel has no sched_ext (no /sys/kernel/sched_ext)",
            "boot one with CONFIG_SCHED_CLASS_EXT (Linux 6.12 or newer), or use a guest: "
            "`workbench lab run -- workbench sched run OBJECT -- COMMAND`",
        ) from error

    def read(name: str) -> str:
        with contextlib.suppress(OSError):  # root/ is there only while a scheduler is
            return (_SYSFS / name).read_text()
        return ""

    events = dict(line.split()[:2] for line in read("root/events").splitlines() if line.strip())
    return State(
        state,
        read("root/ops").strip(),
        int(read("enable_seq").strip() or 0),
        {name: int(count) for name, count in events.items()},
    )


def holders() -> dict[int, str]:
    """Processes that hold a struct_ops link, such as a scheduler's, by pid with their names; others' take root."""
    found: dict[int, str] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended, or is somebody else's
            for entry in (process / "fdinfo").iterdir():
                with contextlib.suppress(OSError):
                    if "link_type:\tstruct_ops" in entry.read_text(errors="replace"):
                        found[int(process.name)] = (
                            (process / "comm").read_text("utf-8", "replace").strip()
                        )
                        break
    return found


def threads(pid: int) -> list[int]:
    """Thread ids of a process.

    Raises
    ------
    TargetGone
        There is no such process.
    """
    try:
        return sorted(int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir())
    except OSError as error:
        raise TargetGone(f"there is no process {pid}", "check the pid") from error


def members(cgroup: Path) -> list[int]:
    """Processes of a cgroup (version 2) and of those below it.

    Raises
    ------
    TargetGone
        There is no such cgroup.
    """
    if not (cgroup / "cgroup.procs").is_file():
        raise TargetGone(
            f"there is no cgroup {cgroup}",
            "give its folder, such as /sys/fs/cgroup/system.slice/nginx.service",
        )
    found: list[int] = []
    for folder, _, _ in os.walk(cgroup):
        with contextlib.suppress(
            OSError
        ):  # it went, or is a threaded one, whose processes its parent lists
            found += map(int, (Path(folder) / "cgroup.procs").read_text().split())
    return found


def policies(pid: int) -> dict[int, int]:
    """Scheduling policy of every thread of a process, by thread id."""
    found = {}
    for thread in threads(pid):
        with contextlib.suppress(ProcessLookupError):
            found[thread] = os.sched_getscheduler(thread)
    return found
