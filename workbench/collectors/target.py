"""Name, start and hold what is to be observed.

A command is started stopped, and run under ptrace to its program entry (AT_ENTRY): the dynamic linker has mapped
every shared library and not one instruction of the program has run, so symbols have addresses and the first event is
not missed. `release` lets it go and drops ptrace. If the workbench dies in between, PTRACE_O_EXITKILL kills the
command: it never stays stopped or with a trap in its code.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import signal
import struct
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import IO, Any

from workbench.collectors.base import Target
from workbench.errors import BadSpec, MissingCapability, NotPermitted, TargetGone

__all__ = ("HeldCommand", "attach_target", "machine_target", "threads")

_CONT, _DETACH, _SEIZE, _GETREGSET, _SETREGSET = 7, 17, 0x4206, 0x4204, 0x4205
_NT_PRSTATUS = 1
_O_TRACEEXEC, _O_EXITKILL = 0x10, 0x100000
_EVENT_EXEC = 4
_AT_ENTRY = 9
_WALL = 0x40000000
# Trap instruction, program counter's index in the general register set, how far the counter is past the trap.
_TRAPS = {"x86_64": (b"\xcc", 16, 1), "aarch64": (b"\x00\x00\x20\xd4", 32, 0)}
_HOLD = 'kill -STOP $$; exec "$0" "$@"'
_LONGEST_WAIT = 30.0


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    return libc


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if _libc().ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        if number == 3:
            raise TargetGone(f"process {pid} is gone")
        raise MissingCapability(
            f"ptrace of process {pid}: {os.strerror(number)}", "see `workbench doctor ptrace`"
        )


def threads(pid: int) -> list[int]:
    """Thread ids of a process right now; empty when it is gone."""
    try:
        return sorted(int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return []


def attach_target(pid: int, *, follow: bool = True) -> Target:
    """A running process as target.

    Raises
    ------
    TargetGone
        No such process.
    NotPermitted
        It belongs to another user and this one has no privilege over it.
    """
    if pid <= 0:
        raise BadSpec(f"{pid} is not a process id")
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise TargetGone(f"there is no process {pid}", "list processes with `ps -e`") from None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if fields.get("State", "").strip().startswith(("Z", "X")):
        raise TargetGone(f"process {pid} has exited already")
    group = int(fields.get("Tgid", pid))
    if group != pid:
        raise BadSpec(
            f"{pid} is a thread of process {group}",
            f"use --pid {group}: all its threads are recorded",
        )
    owner = int(fields.get("Uid", "0").split()[0])
    if not os.access(f"/proc/{pid}/mem", os.R_OK) or not _may_read(pid):
        raise NotPermitted(
            f"process {pid} belongs to user {owner} and may not be observed by user {os.getuid()}",
            "run as its owner or as root",
        )
    return Target(pid, follow=follow, pids={pid, *(_descendants(pid) if follow else ())})


def _may_read(pid: int) -> bool:
    try:
        with Path(f"/proc/{pid}/maps").open("rb") as maps:
            maps.read(1)
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def _descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                status = (entry / "stat").read_text().rsplit(")", 1)[1]
                parents[int(entry.name)] = int(status.split()[1])
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found - {pid}


def machine_target() -> Target:
    """The whole machine as target."""
    return Target(None)


class HeldCommand:
    """A command started by the workbench, held at its program entry until `release`.

    Every method has to be called from the thread that made the object (a rule of ptrace), except `kill` and `wait`.

    Parameters
    ----------
    command : sequence of str
    stdout, stderr, stdin, cwd, env
        As for `subprocess.Popen`.

    Raises
    ------
    BadSpec
        The command does not exist or is not executable.
    TargetGone
        It exited before its first instruction (for example, a shared library is missing).
    """

    def __init__(
        self,
        command: tuple[str, ...],
        *,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        stdin: int | IO[Any] | None = None,
        cwd: str | Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        if not command:
            raise BadSpec("no command is given", "write it after `--`")
        path = shutil.which(command[0], path=(env or os.environ).get("PATH"))
        if path is None:
            raise BadSpec(f"command not found: {command[0]}", "give a path, or check PATH")
        self.command = command
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", _HOLD, path, *command[1:]],
            stdout=stdout,
            stderr=stderr,
            stdin=stdin,
            cwd=cwd,
            env=env,
        )
        self.pid = self.process.pid
        self._traced = False
        try:
            self._run_to_entry()
        except BaseException:
            self.kill()
            raise

    @property
    def target(self) -> Target:
        """This command as target."""
        return Target(self.pid, self.command, pids={self.pid})

    def _wait_stop(self) -> int:
        """Wait for the next stop; the signal and event bits of the status."""
        end = time.monotonic() + _LONGEST_WAIT
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WUNTRACED | os.WNOHANG | _WALL)
            if not pid:
                time.sleep(0.0005)
                continue
            if os.WIFSTOPPED(status):
                return status >> 8
            self.process.returncode = os.waitstatus_to_exitcode(status)
            raise TargetGone(
                f"{self.command[0]} ended before its first instruction (exit status {self.process.returncode})",
                "run it alone to see why: a shared library may be missing",
            )
        raise TargetGone(
            f"{self.command[0]} did not reach its program entry in {_LONGEST_WAIT:.0f} s"
        )

    def _run_to_entry(self) -> None:
        self._wait_stop()  # the shell's own SIGSTOP
        _ptrace(_SEIZE, self.pid, 0, _O_TRACEEXEC | _O_EXITKILL)
        self._traced = True
        os.kill(self.pid, signal.SIGCONT)
        while (stop := self._wait_stop()) != (signal.SIGTRAP | _EVENT_EXEC << 8):
            self._continue(stop)
        trap, index, past = _TRAPS.get(platform.machine(), (b"", 0, 0))
        if not trap:
            return
        entry = self._entry()
        with Path(f"/proc/{self.pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(entry)
            original = memory.read(len(trap))
            memory.seek(entry)
            memory.write(trap)
            stop = 0
            while stop != signal.SIGTRAP or self._counter(index) != entry + past:
                self._continue(stop)
                stop = self._wait_stop()
            memory.seek(entry)
            memory.write(original)
        if past:
            self._set_counter(index, entry)

    def _continue(self, stop: int) -> None:
        """Continue, delivering the signal that caused the last stop unless ptrace itself made it."""
        number = stop & 0xFF
        hand_on = 0 if stop >> 8 or number in (0, signal.SIGTRAP, signal.SIGSTOP) else number
        _ptrace(_CONT, self.pid, 0, hand_on)

    def _entry(self) -> int:
        auxiliary = Path(f"/proc/{self.pid}/auxv").read_bytes()
        for kind, value in struct.iter_unpack("<QQ", auxiliary):
            if kind == _AT_ENTRY:
                return int(value)
        raise MissingCapability("the program has no AT_ENTRY")

    def _registers(self) -> tuple[ctypes.Array[ctypes.c_uint64], Any]:
        registers = (ctypes.c_uint64 * 34)()
        vector = (ctypes.c_size_t * 2)(ctypes.addressof(registers), ctypes.sizeof(registers))
        _ptrace(_GETREGSET, self.pid, _NT_PRSTATUS, ctypes.addressof(vector))
        return registers, vector

    def _counter(self, index: int) -> int:
        return int(self._registers()[0][index])

    def _set_counter(self, index: int, value: int) -> None:
        registers, vector = self._registers()
        registers[index] = value
        _ptrace(_SETREGSET, self.pid, _NT_PRSTATUS, ctypes.addressof(vector))

    def release(self) -> None:
        """Let the command run, no longer traced."""
        if self._traced:
            self._traced = False
            _ptrace(_DETACH, self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Exit status of the command (negative: killed by that signal)."""
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End the command, whatever state it is in, and reap it."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError, subprocess.TimeoutExpired):
                self.process.wait(5)
