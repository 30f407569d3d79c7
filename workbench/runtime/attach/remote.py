"""System calls made by a held process, safe against the death of the workbench at any instant.

The thread is never in a state from which it could not go on alone. Its registers and signal mask are written to its
own stack (below the red zone, dead memory) first; then one PTRACE_SETREGS moves it into a stub of 51 bytes:

    syscall                      the call that we want; we watch its entry and exit
    rt_sigprocmask(SETMASK)      the mask from the stack
    pop r15 ... rax; iretq       registers, flags, stack pointer and program counter from the stack

Should we die, the thread finishes the stub and is back where it was. While we live we take it back at the exit of the
call and give it its registers with PTRACE_SETREGS, at a stop from which the kernel restarts (or ends with EINTR) a
system call that the thread had been sleeping in, exactly as it would have without us. A saved state for the stub
repeats what the kernel does for the restart codes (arch/x86/kernel/signal.c, arch_do_signal_or_restart): program
counter back by 2, and the number of the call, or of restart_syscall, in rax. Neither stub nor calls touch the restart
block, vector registers or the signal stack.

Until the process has memory of ours the stub lies in the unused end of a page of code (beyond the end of the
segment in the file), which is put back afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
from types import TracebackType

from workbench.errors import MissingCapability, RunFailed, TargetGone
from workbench.frames.symbols.elffile import BadElf, ElfFile
from workbench.frames.symbols.mappings import readable_place
from workbench.runtime.attach import ptrace
from workbench.runtime.attach.memory import Memory, mappings
from workbench.runtime.attach.stop import Stop

__all__ = ("STUB", "STUBS", "Calls", "find_room", "refused")

_EVENT_STOP = 128
_SYSCALL_STOP = 0x85
_NO_CALL = 2**64 - 1
_RESTART_SYSCALL = 219
_RESTARTS = {2**64 - 512, 2**64 - 513, 2**64 - 514}
_RESTART_BLOCK = 2**64 - 516
_POPPED = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "cx", "dx", "si", "di", "ax",
)  # fmt: skip
_FRAME = (1 + len(_POPPED) + 5) * 8
_RED_ZONE = 128
_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
# A fault whose signal is blocked would take its handler away (kernel/signal.c, force_sig_info_to_task).
_MOST_SIGNALS = 2**64 - 1 - sum(1 << one - 1 for one in _FAULTS)
_RESTORE = bytes.fromhex(
    "b80e000000"  # mov $14 (rt_sigprocmask),%eax
    "bf02000000"  # mov $2 (SIG_SETMASK),%edi
    "4889e6"  # mov %rsp,%rsi
    "31d2"  # xor %edx,%edx
    "41ba08000000"  # mov $8,%r10d
    "0f05"  # syscall
    "58"  # pop %rax: the mask
    "415f415e415d415c5d5b"  # pop %r15, %r14, %r13, %r12, %rbp, %rbx
    "415b415a41594158595a5e5f58"  # pop %r11, %r10, %r9, %r8, %rcx, %rdx, %rsi, %rdi, %rax
    "48cf"  # iretq
)
STUB = b"\x0f\x05" + _RESTORE
_GATE = bytes.fromhex(
    "ffd0"  # call *%rax
    "4889c6"  # mov %rax,%rsi
    "48c7c7ffffffff"  # mov $-1,%rdi
    "b803000000"  # mov $3 (close),%eax
)
GATE = _GATE + b"\x0f\x05" + _RESTORE
GATE_AT = 64  # from the start of a page of stubs, whose first is STUB
STUBS = STUB.ljust(GATE_AT, b"\xcc") + GATE


def find_room(pid: int, memory: Memory, size: int) -> tuple[int, bytes]:
    """Address and present content of `size` unused bytes at the end of a page of a file's code.

    Raises
    ------
    MissingCapability
        There is none.
    """
    for one in mappings(pid):
        if not one.executable or not one.inode or "w" in one.mode or "s" in one.mode:
            continue
        try:
            with ElfFile(readable_place(pid, one.start, one.end, one.path)) as elf:
                loads = elf.loads
        except (OSError, BadElf):
            continue
        length = one.end - one.start
        ends = [
            int(load["offset"] + load["filesz"])
            for load in loads
            if load["offset"] <= one.offset + length - 1
            and load["offset"] + load["filesz"] > one.offset
        ]
        if not ends:
            continue
        used = max(ends) - one.offset
        if length - used < size or used <= 0:
            continue
        address = one.end - size & ~7
        content = memory.read(address, size)
        # A stub that is there already was left by a workbench that was killed. It stays: a thread may be inside.
        if not any(content) or content == STUB:
            return address, content
    raise MissingCapability(
        f"process {pid} has no {size} unused bytes of code to make its first system call from"
    )


def _resumable(registers: ptrace.Registers) -> ptrace.Registers:
    """The state from which user code goes on, with the kernel's restart of an interrupted call already done."""
    state = registers.copy()
    if state.orig_ax >> 63 == 0 and state.ax in _RESTARTS:
        state.ax, state.ip = state.orig_ax, state.ip - 2
    elif state.orig_ax >> 63 == 0 and state.ax == _RESTART_BLOCK:
        state.ax, state.ip = _RESTART_SYSCALL, state.ip - 2
    return state


class Calls:
    """System calls by one thread of a held process, as a context: on exit the thread is as it was.

    Parameters
    ----------
    stop : Stop
        The held process.
    memory : Memory
    stub : int
        Address of a copy of `STUBS` (or `STUB`) in the process, or 0: use unused bytes of its code.
    spare : tuple of int and bytes, optional
        Such bytes as `find_room` found them before the process was held.
    """

    def __init__(
        self, stop: Stop, memory: Memory, stub: int = 0, spare: tuple[int, bytes] | None = None
    ) -> None:
        self._stop, self._memory, self.stub, self._spare = stop, memory, stub, spare
        self._borrowed: tuple[int, bytes] | None = None
        self._thread = 0
        self._saved = ptrace.Registers()
        self._mask = 0
        self._entered = self._ran = False

    def __enter__(self) -> Calls:
        quiet = [thread for thread, delivered in self._stop.threads.items() if not delivered]
        if not quiet:
            quiet = [self._settle(next(iter(self._stop.threads)))]
        pid = self._stop.pid
        self._thread = pid if pid in quiet else quiet[0]
        self._saved = ptrace.get_registers(self._thread)
        self._mask = ptrace.get_mask(self._thread)
        if not self.stub:
            self._borrowed = self._still_spare() or find_room(pid, self._memory, len(STUB))
            self.stub = self._borrowed[0]
            self._memory.write(self.stub, STUB)
        return self

    def _still_spare(self) -> tuple[int, bytes] | None:
        with contextlib.suppress(MissingCapability):
            if self._spare and self._memory.read(self._spare[0], len(STUB)) == self._spare[1]:
                return self._spare
        return None

    def _settle(self, thread: int) -> int:
        """Every thread is about to receive a signal: let one have it and stop right after."""
        while delivered := self._stop.threads[thread]:
            ptrace.interrupt(thread)  # the stop that it is in has swallowed the interrupt before
            ptrace.resume(ptrace.CONT, thread, delivered)
            self._stop.threads[thread] = 0
            status = self._stop.wait(thread)
            if status >> 16 != _EVENT_STOP:
                self._stop.threads[thread] = os.WSTOPSIG(status)
        return thread

    def _enter_stub(self, ip: int, ax: int, arguments: tuple[int, ...]) -> None:
        base = (self._saved.sp - _RED_ZONE - _FRAME) & ~15
        state = _resumable(self._saved)
        words = [self._mask]
        words += [getattr(state, name) for name in _POPPED]
        words += [state.ip, state.cs, state.flags, state.sp, state.ss]
        self._memory.write(base, struct.pack(f"<{len(words)}Q", *words))
        call = self._saved.copy()
        call.ip, call.sp, call.ax, call.orig_ax = ip, base, ax, _NO_CALL
        call.flags = 0x202
        for name, value in zip(("di", "si", "dx", "r10", "r8", "r9"), arguments, strict=False):
            setattr(call, name, value % 2**64)
        self._entered = True
        ptrace.set_registers(self._thread, call)
        ptrace.set_mask(self._thread, _MOST_SIGNALS)

    def _run_to_call(self, after: int, *, others: bool = False) -> None:
        """Run until a system call's entry or exit stop with the program counter at `after` (`others`: past others)."""
        self._ran = True
        delivered = 0
        while True:
            ptrace.resume(ptrace.SYSCALL, self._thread, delivered)
            status = self._stop.wait(self._thread)
            stopped_by = os.WSTOPSIG(status)
            delivered = signal.SIGSTOP if status >> 16 == 0 and stopped_by == signal.SIGSTOP else 0
            if status >> 16 == 0 and stopped_by in _FAULTS:
                raise RunFailed(
                    f"process {self._stop.pid}: the agent failed there ({signal.Signals(stopped_by).name})",
                    "report it; the process goes on",
                )
            if stopped_by == _SYSCALL_STOP:
                if ptrace.get_registers(self._thread).ip == after:
                    return
                if others:
                    continue
                raise RunFailed(f"process {self._stop.pid}: a remote system call went astray")

    def call(self, number: int, *arguments: int) -> int:
        """Make one system call; its result.

        Raises
        ------
        OSError
            It failed, with its errno.
        TargetGone
            The process ended meanwhile.
        """
        self._enter_stub(self.stub, number, arguments)
        self._run_to_call(self.stub + 2)
        self._run_to_call(self.stub + 2)
        result = int(ptrace.get_registers(self._thread).ax)
        if result >= 2**64 - 4095:
            code = 2**64 - result
            raise OSError(code, os.strerror(code))
        return result

    def function(self, address: int, *arguments: int) -> int:
        """Call a C function of ours in the target (only with a page of `STUBS`); its signed 64-bit result.

        The function ends in a system call that does nothing, which is how we see it end and the thread does not
        depend on us seeing it.
        """
        gate = self.stub + GATE_AT
        self._enter_stub(gate, address, ())
        registers = ptrace.get_registers(self._thread)
        for name, value in zip(("di", "si", "dx", "cx", "r8", "r9"), arguments, strict=False):
            setattr(registers, name, value % 2**64)
        ptrace.set_registers(self._thread, registers)
        self._run_to_call(gate + len(_GATE) + 2, others=True)
        result = int(ptrace.get_registers(self._thread).si)
        self._run_to_call(gate + len(_GATE) + 2)
        return result - 2**64 if result >> 63 else result

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._give_back()
            if self._borrowed is not None:
                self._memory.write(*self._borrowed)
        except TargetGone:
            if kind is None:
                raise

    def _give_back(self) -> None:
        """Stop where the kernel handles restarts, then give the thread its own state."""
        if not self._entered:
            return
        if self._ran:
            ptrace.interrupt(self._thread)
            ptrace.resume(ptrace.CONT, self._thread)
            while self._stop.wait(self._thread) >> 16 != _EVENT_STOP:
                ptrace.resume(ptrace.CONT, self._thread)
        ptrace.set_mask(self._thread, self._mask)
        ptrace.set_registers(self._thread, self._saved)


def refused(what: str, error: OSError) -> MissingCapability:
    """The error for a system call that the target may not make."""
    hint = "its seccomp filter or a resource limit forbids it"
    if error.errno == errno.ENOMEM:
        hint = "it is out of address space (see its RLIMIT_AS) or memory"
    return MissingCapability(f"the target cannot {what}: {error.strerror}", hint)
