"""Which accelerator runs parallel guests here: KVM where a guest was seen to come up with it, else emulation.

A device file and a virtual machine that can be created prove little: nested or paravirtual KVM may fail at the first
kernel it is given. So a guest is booted with it, once per boot of the host, version of QEMU and kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from workbench.errors import BadSpec, GuestFailed
from workbench.lab.cache import Cache
from workbench.lab.guest import Guest
from workbench.lab.machine import Machine, qemu_version

__all__ = ("choose", "verdict")

_FILE = "accelerators.json"
_LIMIT = 12.0  # seconds: a guest under KVM comes up in one or two
_DEVICE = Path("/dev/kvm")


def choose(cache: Cache, machine: Machine, wanted: str, say: Callable[[str], None]) -> str:
    """``kvm`` or ``tcg`` for this machine.

    Raises
    ------
    BadSpec
        KVM was asked for together with the deterministic mode, or there is no such accelerator.
    """
    if wanted not in ("auto", "kvm", "tcg"):
        raise BadSpec(f"there is no accelerator {wanted!r}", "auto, kvm or tcg")
    if machine.mode == "deterministic":
        if wanted == "kvm":
            raise BadSpec(
                "instructions cannot be counted under KVM",
                "take mode='parallel', or leave the accelerator",
            )
        return "tcg"
    if wanted != "auto":
        return wanted
    works = verdict(cache, machine.kernel.release)[0]
    if works is None:
        say(f"trying a guest with KVM (at most {_LIMIT:g} s)")
        works = _try(cache, machine)
    return "kvm" if works else "tcg"


def verdict(cache: Cache, release: str) -> tuple[bool | None, str]:
    """Whether KVM runs guests with this kernel, and why (not); None when that was not tried yet."""
    if not _DEVICE.exists():
        return False, f"there is no {_DEVICE}"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return False, f"{_DEVICE} may not be used by this user (group kvm)"
    known = cache.facts(_FILE).get(_key(release))
    if not isinstance(known, dict):
        return None, "not tried yet"
    return bool(known.get("works")), str(known.get("why"))


def _try(cache: Cache, machine: Machine) -> bool:
    trial = replace(machine, accelerator="kvm", cpus=1, memory=512)
    works, why = True, "a guest came up"
    try:
        guest = Guest(trial, _LIMIT, cache.workspace("guest"))
        why += f" within {guest.boot_seconds:.1f} s"
        guest.stop()
    except GuestFailed as failure:
        works, why = False, failure.message
    cache.note(
        _FILE, {**cache.facts(_FILE), _key(machine.kernel.release): {"works": works, "why": why}}
    )
    return works


def _key(release: str) -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{boot} {qemu_version()} {release}"
