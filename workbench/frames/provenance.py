"""Where and with what something was measured: host, versions, repository state. Nothing here needs privilege."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

__all__ = ("Clock", "Git", "Host", "Provenance", "clock", "git", "host", "provenance", "versions")

DIFF_LIMIT = 256 << 10
PACKAGES = {
    "workbench": "bpf-workbench",
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
}


@dataclass(frozen=True, slots=True)
class Host:
    """The machine.

    Attributes
    ----------
    mitigations : dict of str to str
        The kernel's word on every known CPU vulnerability (they change probe costs).
    governor, microcode : str
        Of CPU 0; empty where the kernel does not tell.
    boot_id : str
        Tells whether kernel addresses still mean the same on this machine.
    """

    hostname: str = ""
    system: str = ""
    kernel: str = ""
    kernel_version: str = ""
    architecture: str = ""
    cpu: str = ""
    cpus: int = 0
    mitigations: dict[str, str] = field(default_factory=dict)
    governor: str = ""
    microcode: str = ""
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class Git:
    """State of the repository that holds the working directory.

    ``diff`` is `git diff HEAD`, cut at 256 KiB (``diff_cut`` is true then); ``dirty`` includes untracked files.
    """

    commit: str = ""
    dirty: bool = False
    diff: str = ""
    diff_cut: bool = False


@dataclass(frozen=True, slots=True)
class Clock:
    """One instant on both clocks.

    Attributes
    ----------
    wall : str
        ISO 8601 with UTC offset.
    monotonic_ns : int
        CLOCK_MONOTONIC, the clock of every frame.
    realtime_offset_ns : int
        Add it to CLOCK_MONOTONIC for nanoseconds since the Unix epoch.
    """

    wall: str = ""
    monotonic_ns: int = 0
    realtime_offset_ns: int = 0


@dataclass(frozen=True, slots=True)
class Provenance:
    """All of it, for a manifest."""

    clock: Clock
    host: Host
    versions: dict[str, str]
    git: Git | None
    command: tuple[str, ...]
    directory: str


def _line(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _cpu_fields() -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in _line("/proc/cpuinfo").splitlines():
        key, colon, value = line.partition(":")
        if not line.strip():
            break
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields


def host() -> Host:
    """This machine, as far as an unprivileged process may know it."""
    cpu = _cpu_fields()
    folder = Path("/sys/devices/system/cpu/vulnerabilities")
    mitigations = (
        {one.name: _line(str(one)) for one in sorted(folder.glob("*"))} if folder.is_dir() else {}
    )
    uname = platform.uname()
    return Host(
        hostname=uname.node,
        system=uname.system,
        kernel=uname.release,
        kernel_version=uname.version,
        architecture=uname.machine,
        cpu=cpu.get("model name") or cpu.get("Processor") or platform.processor(),
        cpus=os.cpu_count() or 0,
        mitigations=mitigations,
        governor=_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        microcode=cpu.get("microcode", ""),
        boot_id=_line("/proc/sys/kernel/random/boot_id"),
    )


def versions(**more: str) -> dict[str, str]:
    """Versions of Python and the packages that shape results; `more` adds what only the caller knows (libbpf)."""
    found = {"python": platform.python_version()}
    for name, distribution in PACKAGES.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            module = sys.modules.get(name)
            found[name] = str(getattr(module, "__version__", ""))
    return found | more


def clock() -> Clock:
    """Now, on both clocks. The offset comes from the tightest of five readings."""
    readings = []
    for _ in range(5):
        before, real, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        readings.append((after - before, (before + after) // 2, real))
    _, monotonic, real = min(readings)
    wall = (
        datetime.datetime.fromtimestamp(real / 1e9).astimezone().isoformat(timespec="milliseconds")
    )
    return Clock(wall, monotonic, real - monotonic)


def _git(folder: Path, *arguments: str, limit: int = 1 << 20) -> bytes | None:
    """Up to `limit` + 1 bytes of what git prints; None where there is no git or no repository."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", "-C", str(folder), *arguments]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
    except OSError:
        return None
    with process:
        assert process.stdout is not None
        output = process.stdout.read(limit + 1)
        if len(output) > limit:
            process.kill()
            return output
    return output if process.returncode == 0 else None


def git(folder: Path | None = None) -> Git | None:
    """State of the repository around `folder` (default: the working directory); None if there is none."""
    folder = folder or Path.cwd()
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    status = _git(folder, "status", "--porcelain", limit=1)
    diff = _git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff", limit=DIFF_LIMIT) or b""
    return Git(
        commit=commit.decode().strip(),
        dirty=bool(status),
        diff=diff[:DIFF_LIMIT].decode("utf-8", "replace"),
        diff_cut=len(diff) > DIFF_LIMIT,
    )


def provenance(**more_versions: str) -> Provenance:
    """Everything above, taken now, with this process's command line and working directory."""
    return Provenance(
        clock=clock(),
        host=host(),
        versions=versions(**more_versions),
        git=git(),
        command=tuple(sys.orig_argv),
        directory=str(Path.cwd()),
    )
