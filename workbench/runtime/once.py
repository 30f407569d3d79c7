"""One run of raw code on a piece of memory: r1 is its address, r2 its length. For conformance tests and fuzzing."""

from __future__ import annotations

import os
import signal

from workbench.errors import RunFailed
from workbench.runtime.interpreter import Interpreter
from workbench.runtime.interpreter.memory import Allocation

__all__ = ("run_interpreted", "run_jit")


def run_interpreted(code: bytes, memory: bytes = b"") -> int:
    """r0 of the program in the reference interpreter.

    Raises
    ------
    BadInstruction
        The code is not RFC 9669 code.
    ProgramFault
        The program did what is not defined.
    """
    from workbench.runtime.interpreter.helpers import REFERENCE_HELPERS

    place = Allocation(max(len(memory), 1), memory)
    machine = Interpreter(code, helpers=REFERENCE_HELPERS)
    return machine.run(
        [place.address, len(memory)], [(place.address, len(memory), "memory", True)]
    ).r0


def run_jit(code: bytes, memory: bytes = b"", tier: str = "optimised") -> int:
    """r0 of the program, compiled by the given tier; in a child process, because nothing has verified it.

    Raises
    ------
    BadInstruction
        The code is not RFC 9669 code.
    MissingCapability
        LLVM is not there.
    RunFailed
        It used memory that is not its own, or was not done when the run-time budget was used up.
    """
    from workbench.runtime.jit.raw import UnverifiedRun

    with UnverifiedRun(code, tier) as run:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            run.execute(bytearray(memory))
            os.write(write, b"%d %d" % (run.stopped, run.result))
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            text = answer.read()
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise RunFailed(
            f"the program ended its process ({name}): it used memory that is not its own",
            "--interpret tells which instruction",
        )
    stopped, result = map(int, text.split())
    if stopped:
        raise RunFailed(
            "the program was stopped: it used up the run-time budget", "bound its loops"
        )
    return result
