"""Name, start and hold what is to be observed.

A command is started under ptrace and run to its program entry (AT_ENTRY): the dynamic linker has mapped every shared
library and not one instruction of the program has run, so symbols have addresses and the first event is not missed.
`release` lets it go and drops ptrace. If the workbench dies in between, PTRACE_O_EXITKILL kills the command: it never
stays stopped or with a trap in its code. No shell and no helper stands in between: arguments, environment, limits and
descriptors are those that the caller gave.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
import struct
import subprocess
import time
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

from workbench.collectors.base import Target
from workbench.collectors.limits import own_limits
from workbench.errors import BadSpec, MissingCapability, NotPermitted, TargetGone

__all__ = ("HeldCommand", "attach_target", "descendants", "machine_target", "threads")

_TRACEME, _CONT, _DETACH, _SETOPTIONS = 0, 7, 17, 0x4200
_GETREGSET, _SETREGSET = 0x4204, 0x4205
_NT_PRSTATUS = 1
_O_EXITKILL = 0x100000
_AT_ENTRY = 9
_WALL = 0x40000000
_ELF_64 = 2
# Trap instruction, program counter's index in the general register set, how far the counter is past the trap.
_TRAPS = {"x86_64": (b"\xcc", 16, 1), "aarch64": (b"\x00\x00\x20\xd4", 32, 0)}
_LONGEST_WAIT = 30.0
_INTERRUPTS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_REFUSED = (
    "see `workbench doctor ptrace`; a container may need --cap-add=SYS_PTRACE, or start the command "
    "yourself and record it with --pid"
)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    return libc


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if _libc().ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        if number == errno.ESRCH:
            raise TargetGone(f"process {pid} is gone")
        raise MissingCapability(f"ptrace of process {pid}: {os.strerror(number)}", _REFUSED)


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
        raise BadSpec(f"{pid} is not a process id", "list processes with `ps -e`")
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise TargetGone(f"there is no process {pid}", "list processes with `ps -e`") from None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if fields.get("State", "").strip().startswith(("Z", "X")) and len(threads(pid)) < 2:
        raise TargetGone(f"process {pid} has exited already", "list processes with `ps -e`")
    group = int(fields.get("Tgid", pid))
    if group != pid:
        raise BadSpec(
            f"{pid} is a thread of process {group}",
            f"use --pid {group}: all its threads are recorded",
        )
    owner = int(fields.get("Uid", "0").split()[0])
    if not _may_read(pid):
        mine = owner == os.getuid()
        raise NotPermitted(
            f"process {pid} belongs to user {owner} and may not be observed by user {os.getuid()}",
            "it has groups or capabilities that you lack, or hides its memory: run as root"
            if mine
            else "run as its owner or as root",
        )
    children = descendants({pid}) if follow else set()
    return Target(pid, follow=follow, pids={pid, *(children - {os.getpid()})})


def _may_read(pid: int) -> bool:
    """Whether this user may observe a process: the kernel checks that when its maps are opened."""
    try:
        with Path(f"/proc/{pid}/maps").open("rb") as maps:
            maps.read(1)
    except PermissionError:
        return False
    except OSError:
        return True
    return os.access(f"/proc/{pid}/mem", os.R_OK)


def descendants(pids: set[int]) -> set[int]:
    """Children, grandchildren ... of processes right now, without themselves."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                status = (entry / "stat").read_text(errors="replace").rsplit(")", 1)[1]
                parents[int(entry.name)] = int(status.split()[1])
    found = set(pids)
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found - pids


def machine_target() -> Target:
    """The whole machine as target."""
    return Target(None)


def _ask_to_be_traced(blocked: set[int | signal.Signals]) -> None:
    """Runs in the child before exec, so it does two system calls and nothing else."""
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if _libc().ptrace(_TRACEME, 0, None, None) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")


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
        The command does not exist or cannot be executed.
    TargetGone
        It exited before its first instruction (for example, a shared library is missing).
    MissingCapability
        ptrace is refused.
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
        self._traced = self._parked = False
        if not command or not command[0]:
            raise BadSpec("no command is given", "write it after `--`")
        self.command = command
        _libc()
        # An interrupt between the birth of the child and the `try` below would leave a stopped process behind.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
        try:
            self.process = subprocess.Popen(
                command,
                stdout=stdout,
                stderr=stderr,
                stdin=stdin,
                cwd=cwd,
                env=env,
                preexec_fn=partial(_ask_to_be_traced, blocked),
            )
            self.pid = self.process.pid
            self._traced = True
        except BaseException as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            if isinstance(error, subprocess.SubprocessError):
                raise MissingCapability("a command may not be traced here", _REFUSED) from None
            if isinstance(error, OSError | ValueError):
                raise _not_started(command[0], cwd, error) from None
            raise
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            self._run_to_entry()
        except BaseException:
            self.kill()
            raise

    @property
    def target(self) -> Target:
        """This command as target."""
        return Target(self.pid, self.command, pids={self.pid})

    def _wait_stop(self) -> int:
        """Wait for the next stop; its signal."""
        end = time.monotonic() + _LONGEST_WAIT
        pause = 0.0001
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG | _WALL)
            if not pid:
                time.sleep(pause)
                pause = min(2 * pause, 0.002)
                continue
            if os.WIFSTOPPED(status):
                return os.WSTOPSIG(status)
            self.process.returncode = os.waitstatus_to_exitcode(status)
            raise TargetGone(
                f"{self.command[0]} ended before its first instruction (exit status {self.process.returncode})",
                "run it alone to see why: a shared library may be missing",
            )
        raise TargetGone(
            f"{self.command[0]} did not reach its program entry in {_LONGEST_WAIT:.0f} s"
        )

    def _run_to_entry(self) -> None:
        self._wait_stop()  # exec succeeded; nothing of the new program has run, not even its dynamic linker
        _ptrace(_SETOPTIONS, self.pid, 0, _O_EXITKILL)
        own_limits(self.pid)
        trap, index, past = _TRAPS.get(platform.machine(), (b"", 0, 0))
        entry = self._entry() if trap else 0
        if not entry:
            return
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
        _ptrace(_CONT, self.pid, 0, 0 if stop in (signal.SIGTRAP, signal.SIGSTOP) else stop)

    def _entry(self) -> int:
        """Address of the program entry; 0 for a program of another word size, which stays held at its exec."""
        with Path(f"/proc/{self.pid}/exe").open("rb") as program:
            if program.read(5)[4:] != bytes([_ELF_64]):
                return 0
        auxiliary = Path(f"/proc/{self.pid}/auxv").read_bytes()
        for kind, value in struct.iter_unpack("=QQ", auxiliary):
            if kind == _AT_ENTRY:
                return int(value)
        return 0

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

    def park(self) -> None:
        """Hold the command by SIGSTOP instead of ptrace, for others who must trace it before it runs."""
        if self._traced:
            self._traced, self._parked = False, True
            _ptrace(_DETACH, self.pid, 0, signal.SIGSTOP)

    def release(self) -> None:
        """Let the command run, no longer traced or stopped."""
        if self._parked:
            self._parked = False
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
        if self._traced:
            self._traced = False
            _ptrace(_DETACH, self.pid)

    def __del__(self) -> None:
        if self._traced or self._parked:  # nobody will let it go any more
            self.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Exit status of the command (negative: killed by that signal)."""
        return self.process.wait(timeout)

    def end(self, patience: float = 5.0) -> int:
        """Ask the command to end, insist after `patience` seconds; its exit status."""
        self.process.terminate()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)  # one that is stopped would not hear it
        try:
            return self.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """End the command, whatever state it is in, and reap it."""
        self._traced = self._parked = False
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._reap()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _reap(self) -> None:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG | _WALL)
            except ChildProcessError:  # somebody else waited for it
                self.process.returncode = -signal.SIGKILL
                return
            if pid and not os.WIFSTOPPED(status):  # a stop from before the kill may still be reported
                self.process.returncode = os.waitstatus_to_exitcode(status)
                return
            time.sleep(0.001)


def _not_started(
    name: str, folder: str | Path | None, error: OSError | ValueError
) -> BadSpec:
    if isinstance(error, ValueError):
        return BadSpec(f"the command cannot be started: {error}")
    if folder is not None and error.filename == str(folder):
        return BadSpec(f"the command cannot run in {folder}: {error.strerror}", "choose another cwd")
    if error.errno == errno.ENOENT:
        # The folder counts only for a name with a slash; PATH is searched for the others.
        if "/" in name and (Path(folder or ".") / name).exists():
            return BadSpec(
                f"{name} exists, but its interpreter does not",
                "look at its #! line, or at `readelf -l` for the program interpreter",
            )
        return BadSpec(f"command not found: {name}", "give a path, or check PATH")
    if error.errno in (errno.EACCES, errno.EISDIR) and Path(folder or ".", name).is_dir():
        return BadSpec(f"{name} is a folder", "name a program in it")
    if error.errno in (errno.EACCES, errno.EISDIR):
        return BadSpec(f"{name} is not executable", f"chmod +x {name}, or name its interpreter first")
    if error.errno == errno.ENOEXEC:
        return BadSpec(
            f"{name} is not a program for this machine",
            "a script needs a #! line, or name its interpreter first",
        )
    return BadSpec(f"{name} cannot be started: {error.strerror}")
