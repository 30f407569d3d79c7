"""A kernel of the user's own, and the one that the machine runs: where they are found, and what is said when not."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.cli.lab import prepare as command
from workbench.errors import BadSpec, MissingCapability
from workbench.lab.cache import Cache
from workbench.lab.sources import from_file, running

RELEASE = "7.1.2-test"
IMAGE = b"\x7fELF" + bytes(60) + f"Linux version {RELEASE} (x)".encode()
SUITABLE = "\n".join(
    f"CONFIG_{one}=y" for one in ("BLK_DEV_INITRD", "DEVTMPFS", "PVH", "SERIAL_8250_CONSOLE")
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine whose kernel has sched_ext, without its image."""
    (tmp_path / "root" / "sys/kernel/sched_ext").mkdir(parents=True)
    modules = tmp_path / "root" / "lib/modules" / RELEASE
    modules.mkdir(parents=True)
    (modules / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    (modules / "config").write_text(SUITABLE + "\nCONFIG_SCHED_CLASS_EXT=y\n")
    (tmp_path / "root" / "boot").mkdir()
    return tmp_path / "root"


@pytest.mark.parametrize("place", ["boot/vmlinuz-{0}", "lib/modules/{0}/vmlinuz"])
def test_the_running_kernel_is_where_distributions_keep_it(
    cache: Cache, machine: Path, place: str
) -> None:
    (machine / place.format(RELEASE)).write_bytes(IMAGE)
    kernel = running(cache, lambda text: None, release=RELEASE, root=machine)
    assert kernel.release == RELEASE and kernel.vmlinux.read_bytes() == IMAGE
    assert kernel.built_in("SCHED_CLASS_EXT") and kernel.modules is not None
    assert not (kernel.modules / "vmlinuz").exists()


def test_the_running_kernel_without_image_or_sched_ext(cache: Cache, machine: Path) -> None:
    with pytest.raises(MissingCapability, match=r"boot/vmlinuz-.* nor .*modules") as caught:
        running(cache, lambda text: None, release=RELEASE, root=machine)
    assert "--kernel PATH" in (caught.value.hint or "")
    (machine / f"boot/vmlinuz-{RELEASE}").write_bytes(IMAGE)
    (machine / "sys/kernel/sched_ext").rmdir()
    with pytest.raises(MissingCapability, match="has no sched_ext"):
        running(cache, lambda text: None, release=RELEASE, root=machine)


def test_a_kernel_of_ones_own_and_what_it_lacks(cache: Cache, tmp_path: Path) -> None:
    image, said = tmp_path / "mine", list[str]()
    image.write_bytes(IMAGE)
    kernel = from_file(cache, image, said.append)
    assert (kernel.modules, kernel.config) == (None, None)
    assert "unpacking" in said[0] or "unpacking" in said[1]
    assert any(f"no modules of Linux {RELEASE}" in line and "--modules" in line for line in said)
    (tmp_path / "config").write_text(SUITABLE + "\n# CONFIG_SCHED_CLASS_EXT is not set\n")
    from_file(cache, image, said.append)
    assert "has no sched_ext" in said[-1]
    with pytest.raises(BadSpec, match="no modules of a kernel in"):
        from_file(cache, image, said.append, tmp_path / "none")
    image.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(BadSpec, match="mine: the file is no Linux kernel"):
        from_file(cache, image, said.append)


def test_a_kernel_that_cannot_be_a_guest(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(IMAGE)
    (tmp_path / "config").write_text(SUITABLE.replace("CONFIG_PVH=y", ""))
    with pytest.raises(MissingCapability, match="lacks CONFIG_PVH"):
        from_file(cache, tmp_path / "vmlinux", lambda text: None)


def test_modules_without_their_kernel() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    command.configure(parser)
    with pytest.raises(BadSpec, match="--modules"):
        command.execute(parser.parse_args(["--modules", "somewhere"]))
