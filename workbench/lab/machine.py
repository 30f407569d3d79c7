"""The virtual machine as QEMU is told of it: two modes, one accelerator, two disks, one channel."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import BadSpec, MissingCapability
from workbench.lab.agent import PORT
from workbench.lab.kernel import Kernel, find_module

__all__ = ("MODES", "Machine", "qemu", "qemu_version")

MODES = {
    "deterministic": "one CPU, time is counted in instructions: two boots agree; no real parallelism",
    "parallel": "CPUs that run at the same time; wall time is the host's",
}


_DEVICES = {
    "nvdimm": ("/dev/pmem0", "/dev/pmem1"),
    "virtio": ("/dev/vda", "/dev/vdb"),
    "nvme": ("/dev/nvme0n1", "/dev/nvme1n1"),
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What a guest is made of.

    Parameters
    ----------
    kernel : Kernel
        To boot.
    initramfs, root, project : Path
        Its first file system, and its two disks.
    mode : str
        A key of `MODES`.
    accelerator : str
        ``tcg`` (emulation) or ``kvm``.
    cpus : int
        Virtual processors; 1 in the deterministic mode.
    memory : int
        MiB.
    seed : int
        Of the guest's random numbers in the deterministic mode.
    arguments : tuple of str
        More words for QEMU.
    boot : tuple of str
        More words for the kernel's command line.
    priority : str
        ``high``: run before the host's other programs where this user may; ``normal``.
    """

    kernel: Kernel
    initramfs: Path
    root: Path
    project: Path
    mode: str = "deterministic"
    accelerator: str = "tcg"
    cpus: int = 1
    memory: int = 1024
    seed: int = 1
    arguments: tuple[str, ...] = field(default=())
    boot: tuple[str, ...] = field(default=())
    priority: str = "normal"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise BadSpec(f"the lab has no mode {self.mode!r}", f"modes: {', '.join(MODES)}")
        if self.mode == "deterministic" and self.cpus != 1:
            raise BadSpec(
                f"the deterministic mode has one CPU, not {self.cpus}",
                "its CPUs would share one clock and never run at the same time; take mode='parallel'",
            )
        if self.priority not in ("normal", "high"):
            raise BadSpec(f"there is no priority {self.priority!r}", "normal or high")
        if self.cpus < 1 or self.memory < 256:
            raise BadSpec(
                f"a guest cannot have {self.cpus} CPUs and {self.memory} MiB",
                "at least 1 CPU and 256 MiB",
            )

    def command(self, console: Path, control: int) -> list[str]:
        """QEMU's command line.

        Parameters
        ----------
        console : Path
            File that takes what the kernel prints.
        control : int
            Descriptor of the connected socket that is the control port's other end.
        """
        return [
            qemu(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
            "-name", "workbench-lab,debug-threads=on",
            "-smp", str(self.cpus), *self._processor(), *self._memory(),
            "-kernel", str(self.kernel.vmlinux), "-initrd", str(self.initramfs), "-append", " ".join(self._boot()),
            "-chardev", f"file,id=console,path={_quoted(console)}", "-serial", "chardev:console",
            "-chardev", f"socket,id=control,fd={control}", "-device", "virtio-serial-pci",
            "-device", f"virtserialport,chardev=control,name={PORT}",
            *self._disk("root", self.root), *self._disk("project", self.project), *self.arguments,
        ]  # fmt: skip

    def _processor(self) -> list[str]:
        if self.mode == "deterministic":
            # One instruction is one nanosecond; idle time passes at once. The clock of the day follows that time too.
            return [
                "-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off,align=off", "-cpu", "max",
                "-rtc", "clock=vm", "-seed", str(self.seed),
            ]  # fmt: skip
        if self.accelerator == "kvm":
            return ["-accel", "kvm", "-cpu", "host"]
        return ["-accel", "tcg,thread=multi", "-cpu", "max"]

    def _boot(self) -> list[str]:
        disks = _DEVICES[self.disks]
        words = [
            "console=ttyS0", "quiet", "panic=-1", "oops=panic", "nokaslr", "random.trust_cpu=on", "no_timer_check",
            f"lab.root={disks[0]}", f"lab.project={disks[1]}",
            # Checking the signatures of the distributor's keys is a quarter of the boot, and no module is checked.
            "initcall_blacklist=load_system_certificate_list,load_revocation_certificate_list",
        ]  # fmt: skip
        if self.accelerator == "tcg":
            # There is no speculation to leak through; the detours would be emulated one by one.
            words += ["mitigations=off", "tsc=reliable"]
        if self.mode == "deterministic":
            words += ["norandmaps"]
        elif self.accelerator == "tcg" and self.cpus <= (os.cpu_count() or 1):
            # An emulated CPU that halts takes the host some 0.2 ms to wake; one that polls, a few microseconds.
            words += ["idle=poll"]
        return [*words, *self.boot]

    @property
    def disks(self) -> str:
        """How the guest sees its images: ``nvdimm``, ``virtio`` or ``nvme``, the first that its kernel can do.

        An NVDIMM is memory: reading it takes instructions and no waiting, which counted time would jump over by far
        more than a disk takes, and differently in each boot.
        """
        modules = self.kernel.modules
        if modules and find_module(modules, "nfit") and find_module(modules, "nd_pmem"):
            return "nvdimm"
        if self.kernel.built_in("VIRTIO_BLK") or (modules and find_module(modules, "virtio_blk")):
            return "virtio"
        return "nvme"

    def _memory(self) -> list[str]:
        if self.disks != "nvdimm":
            return ["-m", str(self.memory)]
        # Each module begins at a multiple of 1 GiB.
        spare = (
            sum(-(-one.stat().st_size // (1 << 30)) + 1 for one in (self.root, self.project)) << 10
        )
        return [
            "-machine",
            "pc,nvdimm=on",
            "-m",
            f"{self.memory},slots=2,maxmem={self.memory + spare}M",
        ]

    def _disk(self, name: str, image: Path) -> list[str]:
        if self.disks == "nvdimm":  # share=off: what the guest writes is a private copy in memory
            file = f"id={name},mem-path={_quoted(image)},size={image.stat().st_size},share=off"
            return ["-object", f"memory-backend-file,{file}", "-device", f"nvdimm,memdev={name}"]
        # snapshot=on: what the guest writes goes to a file without a name in $TMPDIR.
        drive = f"if=none,id={name},format=raw,snapshot=on,cache=unsafe,file={_quoted(image)}"
        kind = "virtio-blk-pci" if self.disks == "virtio" else f"nvme,serial={name}"
        return ["-drive", drive, "-device", f"{kind},drive={name}"]


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


def qemu() -> str:
    """The program that emulates this processor.

    Raises
    ------
    MissingCapability
        It is not installed, or the lab has no guests for this processor.
    """
    machine = platform.machine()
    if machine != "x86_64":
        raise MissingCapability(
            f"the lab has guests for x86-64 only, and this is {machine}",
            "use a machine with an x86-64 processor",
        )
    if found := shutil.which(f"qemu-system-{machine}"):
        return found
    raise MissingCapability(
        f"no program qemu-system-{machine} on PATH", "Debian: apt-get install qemu-system-x86"
    )


def qemu_version() -> str:
    """As QEMU states it, ``7.2.22``; empty if it does not."""
    run = subprocess.run(
        [qemu(), "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    match = re.search(r"version (\S+)", run.stdout)
    return match[1] if match else ""
