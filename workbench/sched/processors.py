"""One processor at a time while a scheduler comes or goes, where several are emulated.

When sched_ext is switched on or off, the kernel patches code that other processors may be running. QEMU's emulation of
several processors (seen with 7.2, multi-threaded TCG) then panics the guest in some boots: "Oops: int3" in
try_to_wake_up or update_rq_clock. With the others offline at that moment it has not been seen. Real processors and KVM
do not need this, and are left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ("alone", "emulated")

_CPUINFO = Path("/proc/cpuinfo")
_PROCESSORS = Path("/sys/devices/system/cpu")


def emulated() -> bool:
    """Whether this is a guest whose processors QEMU emulates under their own name, as the lab's are."""
    try:
        return "QEMU TCG CPU" in _CPUINFO.read_text(errors="replace")
    except OSError:
        return False


@contextlib.contextmanager
def alone(able: bool = True) -> Iterator[list[str]]:
    """Within it, an emulated guest has one processor; gives the names of those that are offline meanwhile.

    Parameters
    ----------
    able : bool
        Do so at all: a scheduler without callbacks for processors that come is ended by the kernel when one does.
    """
    switches: list[Path] = []
    try:
        if able and emulated():
            for switch in sorted(_PROCESSORS.glob("cpu[0-9]*/online")):
                # The first one cannot go and has no such file, or must not.
                with contextlib.suppress(OSError):
                    if switch.parent.name != "cpu0" and switch.read_text().strip() == "1":
                        switch.write_text("0")
                        switches.append(switch)
        yield [switch.parent.name for switch in switches]
    finally:
        for switch in switches:
            with contextlib.suppress(OSError):
                switch.write_text("1")
