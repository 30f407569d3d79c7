"""Every error the workbench raises on purpose: one tree, each with a stable code and a hint.

A message says what went wrong; the hint says what to do next. The command line prints both and exits with
``exit_status``; a notebook shows them as the last lines of the traceback.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = (
    "BadSpec",
    "CompileFailed",
    "DamagedRecording",
    "GuestFailed",
    "MissingCapability",
    "MissingFrame",
    "NewerRecording",
    "NotPermitted",
    "OutOfSlots",
    "RunFailed",
    "TargetGone",
    "UnknownSymbol",
    "VerifierRejected",
    "WorkbenchError",
)


class WorkbenchError(Exception):
    """Base of all deliberate errors.

    Parameters
    ----------
    message : str
        What went wrong, naming the thing it went wrong with.
    hint : str
        What the user can do about it; empty when the message already says so.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class BadSpec(WorkbenchError):
    """A collector specification, option or experiment file that cannot be understood."""

    code = "bad-spec"
    exit_status = 2


class MissingCapability(WorkbenchError):
    """This machine, kernel or build lacks something that was asked for.

    Attributes
    ----------
    log : str
        What the kernel's loader wrote, where it was the one that failed.
    """

    code = "missing-capability"
    exit_status = 3
    log: str = ""


class NotPermitted(WorkbenchError):
    """The machine could do it, but not for this user."""

    code = "not-permitted"
    exit_status = 4


class TargetGone(WorkbenchError):
    """The process to observe does not exist or exited while it was being attached."""

    code = "target-gone"
    exit_status = 5


class UnknownSymbol(WorkbenchError):
    """A symbol, library or address that the target does not have."""

    code = "unknown-symbol"
    exit_status = 6


class OutOfSlots(WorkbenchError):
    """More hardware watchpoints than the processor has debug registers."""

    code = "out-of-slots"


class CompileFailed(WorkbenchError):
    """clang refused a BPF C file; the message holds its diagnostics."""

    code = "compile-failed"


class VerifierRejected(WorkbenchError):
    """A verifier, the kernel's or our own, refused a program.

    Attributes
    ----------
    log : str
        The verifier's whole log; the message shows the C line at which it gave up. Our own writes the failing path.
    program : str
        Name of the program; this and what follows from our own verifier only.
    reason : str
        The rule that was broken, one sentence.
    instruction : int
        Slot of the instruction; -1 where it is not known.
    line : str
        ``file:line: source`` of the instruction, empty without line information.
    registers : dict of str to str
        What every register held there.
    path : tuple of str
        The decisions on the shortest failing path that was found, in order.
    """

    code = "verifier-rejected"

    def __init__(
        self,
        message: str,
        hint: str = "",
        log: str = "",
        *,
        program: str = "",
        reason: str = "",
        instruction: int = -1,
        line: str = "",
        registers: dict[str, str] | None = None,
        path: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint)
        self.log = log
        self.program = program
        self.reason = reason
        self.instruction = instruction
        self.line = line
        self.registers = registers or {}
        self.path = path


class MissingFrame(WorkbenchError):
    """A recording lacks the frame or column that an analysis needs."""

    code = "missing-frame"


class DamagedRecording(WorkbenchError):
    """A recording folder that is truncated or was edited by hand."""

    code = "damaged-recording"


class NewerRecording(WorkbenchError):
    """A recording written by a newer workbench than this one."""

    code = "newer-recording"


class RunFailed(WorkbenchError):
    """An experiment, a notebook or a command under observation failed."""

    code = "run-failed"


class GuestFailed(RunFailed):
    """A guest of the lab did not boot, panicked, or no longer answers.

    Attributes
    ----------
    console : str
        What its kernel wrote, the last part.
    panicked : bool
        Its kernel gave up: booting again may help.
    """

    code = "guest-failed"

    def __init__(self, message: str, hint: str = "", *, console: str = "", panicked: bool = False) -> None:
        super().__init__(message, hint)
        self.console = console
        self.panicked = panicked
