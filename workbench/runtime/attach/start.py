"""Start a program and hold it at its first instruction, to attach before anything has run.

The dynamic linker has mapped every library by then. The program is stopped as job control stops it (state T), traced by
nobody, so that `Process` enters it like any other. Until it is let go the kernel kills it should the workbench die.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from workbench.errors import BadSpec, MissingCapability, TargetGone
from workbench.runtime.attach import ptrace
from workbench.runtime.attach.memory import Memory
from workbench.runtime.attach.remote import Calls
from workbench.runtime.attach.stop import Stop, status_fields

__all__ = ("Started",)

_TRACEME = 0
_WALL = 0x40000000
_AT_ENTRY = 9
_TRAP = b"\xcc"
_PRCTL, _PDEATHSIG = 157, 1
_PATIENCE = 30.0


class Started:
    """A program held at its entry until `release`; as a context, it is killed at the end unless it was released.

    Parameters
    ----------
    command : sequence of str
    **options
        As for `subprocess.Popen`.

    Attributes
    ----------
    pid : int
    process : subprocess.Popen

    Raises
    ------
    BadSpec
        It cannot be started.
    TargetGone
        It ended before its first instruction.
    """

    def __init__(self, command: Sequence[str | Path], **options: Any) -> None:
        libc = ctypes.CDLL(None, use_errno=True)

        def prepare() -> None:
            libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if libc.ptrace(_TRACEME, 0, None, None) == -1:
                raise OSError(ctypes.get_errno(), "ptrace")

        try:
            self.process = subprocess.Popen(
                [str(one) for one in command], preexec_fn=prepare, **options
            )
        except OSError as error:
            raise BadSpec(f"{command[0]} cannot be started: {error.strerror}") from error
        except subprocess.SubprocessError as error:
            raise MissingCapability(
                "ptrace is refused here", "see `workbench doctor ptrace`"
            ) from error
        self.pid = self.process.pid
        self._held = True
        try:
            self._run_to_entry()
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Started:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._held:
            self.kill()

    def _wait(self) -> int:
        """The signal of the next stop."""
        _, status = os.waitpid(self.pid, _WALL)
        if os.WIFSTOPPED(status):
            return os.WSTOPSIG(status)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self._held = False
        raise TargetGone(f"process {self.pid} ended before its first instruction", "run it alone")

    def _run_to_entry(self) -> None:
        self._wait()
        auxiliary = Path(f"/proc/{self.pid}/auxv").read_bytes()
        entry = dict(struct.iter_unpack("=QQ", auxiliary)).get(_AT_ENTRY, 0)
        memory = Memory(self.pid)
        try:
            original = memory.read(entry, 1)
            memory.write(entry, _TRAP)
            stop = 0
            while True:
                ptrace.resume(ptrace.CONT, self.pid, 0 if stop == signal.SIGTRAP else stop)
                stop = self._wait()
                registers = ptrace.get_registers(self.pid)
                if stop == signal.SIGTRAP and registers.ip == entry + 1:
                    break
            memory.write(entry, original)
            registers.ip = entry
            ptrace.set_registers(self.pid, registers)
        finally:
            memory.close()
        ptrace.resume(ptrace.DETACH, self.pid, signal.SIGSTOP)
        end = time.monotonic() + _PATIENCE
        while status_fields(self.pid).get("State", "X")[0] != "T" and time.monotonic() < end:
            time.sleep(0.0005)

    def release(self) -> None:
        """Let it run; it no longer depends on the workbench. Harmless twice."""
        if not self._held:
            return
        memory = Memory(self.pid)
        try:
            with Stop(self.pid) as stop, Calls(stop, memory) as calls:
                calls.call(_PRCTL, _PDEATHSIG, 0)
        finally:
            memory.close()
        self._held = False
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it and reap it."""
        self._held = False
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
