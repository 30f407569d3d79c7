"""Where a guest's kernel comes from: the archive, a file, or the machine itself."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Callable, Iterable
from functools import cmp_to_key
from pathlib import Path

from workbench.errors import BadSpec, MissingCapability, NotPermitted
from workbench.lab.apt import SUITES, Apt, Stanza
from workbench.lab.cache import Cache
from workbench.lab.kernel import Kernel, release_of, uncompressed

__all__ = ("candidates", "compare_versions", "from_archive", "from_file", "running")

_META = "linux-image-cloud-amd64"
_RELEASE = re.compile(r"\blinux-image-(\d[\w.+~-]*-cloud-amd64)\b")
_PARTS = ("linux-base-", "linux-binary-", "linux-modules-", "linux-headers-")
SCHED_EXT = "SCHED_CLASS_EXT"


def compare_versions(a: str, b: str) -> int:
    """Negative, 0 or positive as version `a` is older than, the same as or newer than `b` (deb-version(7))."""
    for one, other in zip(_version_parts(a), _version_parts(b), strict=True):
        if order := _compare_part(one, other):
            return order
    return 0


def _version_parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "0")


def _compare_part(a: str, b: str) -> int:
    """Text and numbers by turns; `~` sorts before the end, letters before all other signs."""

    def weight(sign: str) -> int:
        return (
            0
            if not sign
            else -1
            if sign == "~"
            else ord(sign)
            if sign.isalpha()
            else ord(sign) + 256
        )

    while a or b:
        text_a, text_b = (re.match(r"\D*", one) for one in (a, b))
        assert text_a and text_b
        for at in range(max(text_a.end(), text_b.end())):
            order = weight(text_a[0][at : at + 1]) - weight(text_b[0][at : at + 1])
            if order:
                return order
        a, b = a[text_a.end() :], b[text_b.end() :]
        number_a, number_b = (re.match(r"\d*", one) for one in (a, b))
        assert number_a and number_b
        if order := int(number_a[0] or 0) - int(number_b[0] or 0):
            return order
        a, b = a[number_a.end() :], b[number_b.end() :]
    return 0


def candidates(stanzas: Iterable[Stanza]) -> list[tuple[str, str]]:
    """Version and release of every kernel that the meta package's versions name, newest first."""
    found: dict[str, str] = {}
    for stanza in stanzas:
        release = _RELEASE.search(stanza.get("Depends", ""))
        if release and stanza.get("Version"):
            found[stanza["Version"]] = release[1]
    order = sorted(found, key=cmp_to_key(compare_versions), reverse=True)
    return [(version, found[version]) for version in order]


def from_archive(cache: Cache, say: Callable[[str], None]) -> Kernel:
    """The newest cloud kernel of the archive whose configuration has sched_ext.

    Raises
    ------
    MissingCapability
        The archive cannot be reached, or offers none.
    RunFailed
        A package is damaged, or the disk is full.
    """
    apt = Apt.of_system(cache.folder("apt"))
    apt.update(say)
    offered = candidates(apt.show(_META))
    looked = []
    for version, release in offered:
        folder = cache.top / "kernels" / release
        if kernel := Kernel.load(folder):
            return kernel
        tree = cache.workspace("kernel")
        try:
            modules = tree / "usr/lib/modules" / release
            if not apt.show(f"linux-binary-{release}"):
                looked.append(f"{release} (other packaging)")
                continue
            # The configuration alone first: it is small and decides.
            apt.extract([f"linux-base-{release}"], tree, say)
            config = modules / "config"
            if not config.is_file() or f"CONFIG_{SCHED_EXT}=y" not in config.read_text(
                errors="replace"
            ):
                looked.append(f"{release} (without sched_ext)")
                continue
            apt.extract([f"{part}{release}" for part in _PARTS[1:]], tree, say)
            types = tree / "usr/src" / f"linux-headers-{release}" / "vmlinux"
            return _keep(
                cache,
                release,
                modules / "vmlinuz",
                modules,
                config,
                types,
                f"Debian {version}",
                say,
            )
        finally:
            shutil.rmtree(tree, ignore_errors=True)
    raise MissingCapability(
        f"{apt.uri} offers no cloud kernel with sched_ext in {', '.join(SUITES)}"
        + (f"; it has {', '.join(looked)}" if looked else ""),
        "give one: `workbench lab prepare --kernel PATH`",
    )


def from_file(
    cache: Cache, image: Path, say: Callable[[str], None], modules: Path | None = None
) -> Kernel:
    """A kernel image that the user names; its modules and configuration are looked for beside it.

    Raises
    ------
    BadSpec
        There is no such file, or it is no kernel.
    MissingCapability
        Its configuration says that it cannot be a guest.
    """
    try:
        data = image.read_bytes()
    except PermissionError as error:
        raise NotPermitted(
            f"{image} may not be read by this user", "run as root, or copy it"
        ) from error
    except OSError as error:
        raise BadSpec(
            f"cannot read the kernel {image}: {error.strerror}", "name a vmlinuz or a vmlinux"
        ) from error
    try:
        release = release_of(data) or _release_in(uncompressed(data))
    except BadSpec as error:
        raise BadSpec(f"{image}: {error.message}", error.hint) from error
    if modules is not None:
        if not any(modules.rglob("*.ko*")) and not (modules / "modules.builtin").is_file():
            raise BadSpec(
                f"there are no modules of a kernel in {modules}",
                f"--modules takes the folder that is /lib/modules/{release} where the kernel is installed",
            )
    else:
        places = (image.parent, image.parent / "modules", Path("/lib/modules") / release)
        modules = next((one for one in places if (one / "modules.builtin").is_file()), None)
    if modules is None:
        say(
            f"no modules of Linux {release} found: the guest has what is built in (--modules DIR names them)"
        )
    configs = (
        image.parent / "config",
        image.parent / f"config-{release}",
        Path(f"/boot/config-{release}"),
        *((modules / "config",) if modules else ()),
    )
    config = next((one for one in configs if one.is_file()), None)
    kernel = _keep(cache, release, image, modules, config, None, str(image.resolve()), say)
    if kernel.built_in(SCHED_EXT) is False:
        say(f"Linux {release} has no sched_ext: `workbench sched` and SchedCoz need another kernel")
    return kernel


def running(
    cache: Cache, say: Callable[[str], None], *, release: str = "", root: Path = Path("/")
) -> Kernel:
    """The kernel that this machine runs, from where distributions keep it: /boot, or the folder of its modules.

    Parameters
    ----------
    cache : Cache
    say : callable
    release : str
        As `uname -r` prints it, by default.
    root : path
        Where the machine's files are.

    Raises
    ------
    MissingCapability
        Its image is not there, or it has no sched_ext.
    """
    release = release or platform.release()
    modules = root / "lib/modules" / release
    places = (root / "boot" / f"vmlinuz-{release}", modules / "vmlinuz")
    image = next((one for one in places if one.exists()), None)
    if image is None:
        raise MissingCapability(
            f"the running kernel's image is not there: neither {places[0]} nor {places[1]}",
            "name it (`workbench lab prepare --kernel PATH`), or leave the option out: one from the archive",
        )
    if not (root / "sys/kernel/sched_ext").is_dir():
        raise MissingCapability(
            f"the running kernel {release} has no sched_ext",
            "`workbench lab prepare` gets one from the archive; without sched_ext, name it with --kernel PATH",
        )
    there = (modules / "modules.builtin").is_file()
    return from_file(cache, image, say, modules if there else None)


def _release_in(vmlinux: bytes) -> str:
    match = re.search(rb"Linux version (\S+) ", vmlinux)
    return match[1].decode(errors="replace") if match else "unknown"


def _keep(
    cache: Cache, release: str, image: Path, modules: Path | None, config: Path | None, types: Path | None,
    origin: str, say: Callable[[str], None],
) -> Kernel:  # fmt: skip
    """Put a kernel into the cache, whole or not at all."""
    say(f"unpacking kernel {release}")
    folder = cache.folder("kernels") / release
    made = cache.workspace("kernel")
    try:
        (made / "vmlinux").write_bytes(uncompressed(image.read_bytes()))
        if modules:
            left_out = shutil.ignore_patterns("vmlinuz", "build", "source", "System.map")
            shutil.copytree(modules, made / "modules", symlinks=True, ignore=left_out)
        if config:
            shutil.copyfile(config, made / "config")
        if types and types.is_file():
            shutil.copyfile(types, made / "types")
        own_types = types is not None and types.is_file()
        for top in (made, folder):
            kernel = Kernel(
                release, top / "vmlinux", top / "modules" if modules else None,
                top / "types" if own_types else top / "vmlinux", top / "config" if config else None, origin,
            )  # fmt: skip
            if top == made:
                _suitable(kernel)
        kernel.save(made)
        if folder.exists():
            shutil.rmtree(folder)
        made.chmod(0o755)
        made.replace(folder)
        return kernel
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _suitable(kernel: Kernel) -> None:
    """Refuse a kernel that cannot be a guest of the lab."""
    lacking = [
        option
        for option in ("BLK_DEV_INITRD", "DEVTMPFS", "PVH", "SERIAL_8250_CONSOLE")
        if kernel.built_in(option) is False
    ]
    if lacking:
        raise MissingCapability(
            f"kernel {kernel.release} cannot be a guest of the lab: it lacks CONFIG_{', CONFIG_'.join(lacking)}",
            "take a distribution's kernel for virtual machines",
        )
