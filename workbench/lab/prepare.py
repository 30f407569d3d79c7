"""Get what a guest is made of. Only `prepare` downloads; `parts` makes the rest anew where it changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import BadSpec, MissingCapability, WorkbenchError
from workbench.lab import sources
from workbench.lab.accelerator import choose, verdict
from workbench.lab.apt import Apt, suite_of_system
from workbench.lab.cache import Cache
from workbench.lab.contents import PROGRAMS
from workbench.lab.extras import fetch
from workbench.lab.image import mke2fs, project_image, root_image
from workbench.lab.initramfs import initramfs
from workbench.lab.kernel import Kernel
from workbench.lab.libraries import closure, is_elf
from workbench.lab.machine import Machine, qemu, qemu_version

__all__ = ("Parts", "parts", "prepare", "ready", "status")

Say = Callable[[str], None]
_FETCHED = (
    "kernels", "images", "apt", "programs", "extras", "busybox", "programs.json", "chosen.json", "accelerators.json",
)  # fmt: skip
_HINT = "`workbench lab prepare` gets what is missing (some 75 MB, once)"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a machine boots: see `workbench.lab.machine.Machine`."""

    kernel: Kernel
    initramfs: Path
    root: Path
    project: Path


def prepare(
    kernel: Path | str | None = None,
    *,
    modules: Path | None = None,
    running: bool = False,
    again: bool = False,
    kvm: bool = False,
    extras: Sequence[str] = (),
    say: Say = lambda text: None,
    cache: Cache | None = None,
) -> Kernel:
    """Get a kernel, the programs that this machine lacks, and make the image; what is there already is kept.

    Parameters
    ----------
    kernel : path, optional
        A kernel image of your own (vmlinuz or vmlinux); `modules` is the folder of its modules.
    running : bool
        Take the kernel that this machine runs.
    again : bool
        Forget what is there first.
    kvm : bool
        Try KVM now, unless that was done; else the first parallel guest does.
    extras : sequence of str
        Of `workbench.lab.extras.EXTRAS`: what some experiments bring into a guest.
    say : callable
        Called with a line of text for each step.

    Returns
    -------
    Kernel
        What guests boot from now on.

    Raises
    ------
    MissingCapability
        No QEMU or mke2fs, no archive to be reached, no kernel with sched_ext in it.
    BadSpec
        The named kernel is none.
    """
    cache = cache or Cache()
    qemu()
    if again:
        cache.remove(*_FETCHED)
    with cache.locked("prepare"):
        if kernel is not None:
            chosen = sources.from_file(cache, Path(kernel), say, modules)
        elif running:
            chosen = sources.running(cache, say)
        else:
            chosen = sources.from_archive(cache, say)
        _programs(cache, say)
        for name in extras:
            fetch(name, cache, say)
        cache.note("chosen.json", {"release": chosen.release})
    made = parts(cache, None, (), say)
    if kvm:
        trial = Machine(
            made.kernel, made.initramfs, made.root, made.project, mode="parallel", cpus=2
        )
        choose(cache, trial, "auto", say)
    return chosen


def parts(cache: Cache, release: str | None, modules: tuple[str, ...], say: Say) -> Parts:
    """What a guest boots, made from what is prepared and what is installed now; downloads nothing.

    Raises
    ------
    MissingCapability
        Nothing is prepared, or not the kernel `release`.
    """
    qemu()
    kernel = _chosen(cache, release)
    busybox = _busybox(cache)
    if busybox is None:
        raise MissingCapability("there is no busybox for guests", _HINT)
    extracted = cache.top / "programs"
    return Parts(
        kernel,
        initramfs(cache, kernel, busybox, modules),
        root_image(cache, busybox, extracted if extracted.is_dir() else None, say),
        project_image(cache),
    )


def ready(cache: Cache) -> tuple[Kernel, str]:
    """The kernel that a guest would boot now, and what is known of KVM.

    Raises
    ------
    MissingCapability
        No QEMU or mke2fs, or nothing is prepared.
    """
    if not qemu_version():
        raise MissingCapability(
            f"{qemu()} does not start", "reinstall it; Debian: apt-get install qemu-system-x86"
        )
    mke2fs()
    kernel = _chosen(cache, None)
    if _busybox(cache) is None:
        raise MissingCapability("there is no busybox for guests", _HINT)
    works, why = verdict(cache, kernel.release)
    return kernel, {True: "yes, ", False: "no, ", None: ""}[works] + why


def status(cache: Cache | None = None) -> dict[str, Any]:
    """What is prepared: ``folder``, ``bytes``, ``chosen``, ``kernels``, ``images``, ``programs``, ``qemu``, ``kvm``,
    and ``problem`` with its ``hint`` when a guest could not boot now (empty otherwise)."""
    cache = cache or Cache()
    problem = hint = version = kvm = ""
    try:
        version = qemu_version()
        kvm = ready(cache)[1]
    except WorkbenchError as error:
        problem, hint = error.message, error.hint
    chosen = str(cache.facts("chosen.json").get("release", ""))
    kernels = [
        {
            "release": one.release,
            "chosen": one.release == chosen,
            "origin": one.origin,
            "sched_ext": one.built_in(sources.SCHED_EXT),
            "types": str(one.types or ""),
            "bytes": cache.size(f"kernels/{one.release}"),
        }
        for one in Kernel.saved(cache)
    ]
    images = [
        {"name": path.name, "bytes": path.stat().st_blocks * 512}
        for path in sorted((cache.top / "images").glob("*"))
        if path.suffix in (".ext4", ".cpio")
    ]
    found = {name: _program(cache, name) for name in PROGRAMS}
    return {
        "folder": str(cache.top),
        "bytes": cache.size(),
        "chosen": chosen,
        "kernels": kernels,
        "images": images,
        "programs": {name: str(path or "") for name, path in found.items()},
        "qemu": version,
        "kvm": kvm,
        "problem": problem,
        "hint": hint,
    }


def _chosen(cache: Cache, release: str | None) -> Kernel:
    name = release or cache.facts("chosen.json").get("release")
    if not isinstance(name, str) or not name:
        raise MissingCapability("no kernel is prepared for guests", _HINT)
    if "/" in name or name.startswith("."):
        raise BadSpec(
            f"{name!r} is no release of a kernel",
            "`workbench lab status` lists those that are prepared",
        )
    kernel = Kernel.load(cache.top / "kernels" / name)
    if kernel is None:
        raise MissingCapability(
            f"kernel {name} is not prepared",
            "`workbench lab status` lists those that are; " + _HINT,
        )
    return kernel


def _program(cache: Cache, name: str) -> Path | None:
    for folder in ("usr/bin", "usr/sbin", "bin", "sbin"):
        for top in (cache.top / "programs", Path("/")):
            if (top / folder / name).is_file():
                return top / folder / name
    return None


def _busybox(cache: Cache) -> Path | None:
    kept = cache.top / "busybox"
    return kept if kept.is_file() else None


def _programs(cache: Cache, say: Say) -> None:
    """busybox, and the programs that this machine has not installed; a missing program is no error."""
    if _busybox(cache) is None:
        tree = cache.workspace("busybox")
        try:
            own = shutil.which("busybox")
            if own and _static(Path(own)):
                found = Path(own)
            else:
                apt = Apt.of_system(cache.folder("apt"))
                apt.update(say)
                apt.extract(["busybox-static"], tree, say, suite_of_system())
                found = next(path for path in tree.rglob("busybox") if is_elf(path))
            shutil.copy2(found, cache.top / "busybox")
        finally:
            shutil.rmtree(tree, ignore_errors=True)
    lacking = [package for name, package in PROGRAMS.items() if _program(cache, name) is None]
    tried = cache.facts("programs.json").get("tried", [])
    if not lacking or lacking == tried:
        return
    try:
        apt = Apt.of_system(cache.folder("apt"))
        apt.update(say)
        if packages := apt.missing(lacking):
            apt.extract(packages, cache.top / "programs", say, suite_of_system())
    except WorkbenchError as error:
        say(f"guests do without {', '.join(lacking)}: {error.message}")
    cache.note(
        "programs.json",
        {"tried": [package for name, package in PROGRAMS.items() if not _program(cache, name)]},
    )


def _static(program: Path) -> bool:
    """Whether an ELF file needs no dynamic linker."""
    return is_elf(program) and not closure([program])
