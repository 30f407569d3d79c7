"""The child of a fuzzing campaign: `python -m workbench.bench.fuzz_worker FIRST COUNT [ENGINE TO LEAVE OUT ...]`.

Prints a JSON line before and after every program.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from dataclasses import replace
from typing import Any

from workbench.bench.fuzz_builder import CONTEXT_BYTES
from workbench.bench.fuzz_engines import (
    CompiledEngine,
    InterpreterEngine,
    KernelEngine,
    Result,
    compare,
)
from workbench.bench.fuzz_programs import FuzzProgram, generate
from workbench.errors import NotPermitted, VerifierRejected, WorkbenchError
from workbench.kernel.raw_program import PROGRAM_TYPES
from workbench.runtime.interpreter import ProgramFault
from workbench.runtime.verifier import Verdict, verify

__all__ = ("Judge", "main")

_KERNEL_LIMITS = ("verifier bug", "BPF program is too large")
# What the kernel lets a privileged user do although its result is not determined.
_UNDETERMINED = ("pointer stored", "uninitialised stack", "mutation")
_LEAST_PACKET = 14
_EDGES = (
    0,
    0,
    0,
    1,
    7,
    8,
    0x3F,
    0x40,
    0x7F,
    0x80,
    0xFF,
)  # bytes that numbers near a bound are made of
_CPU_SECONDS = 20  # of the verifier on one program; more is a finding
_BUDGET = 30_000  # instructions walked by our verifier: endless loops must not take all the time
_JOINED = 8  # of so many programs one is verified by joined walks only
_MAY_GOTO = 100  # rounds that show whether may_goto ends a loop


class Judge:
    """Every engine that works here, and what they say of a program."""

    def __init__(self, without: tuple[str, ...] = ()) -> None:
        self.left_out: dict[str, str] = {}
        self.interpreter = InterpreterEngine()
        self.compiled: list[CompiledEngine] = []
        for tier in ("quick", "optimised"):
            if tier in without:
                continue
            try:
                self.compiled.append(CompiledEngine(tier))
            except WorkbenchError as error:
                self.left_out[tier] = error.message
        self.kernel: KernelEngine | None = None
        if "kernel" not in without:
            try:
                self.kernel = KernelEngine()
                self.kernel.run(generate(0, risky=False))
            except (WorkbenchError, OSError) as error:
                self.kernel = None
                self.left_out["kernel"] = str(error).splitlines()[0]
        self.verifier = "verifier" not in without

    def row(self, one: FuzzProgram) -> dict[str, Any]:
        """Verdicts ("" = accepted, None = not asked), engines compared, bugs."""
        bugs: list[tuple[str, str]] = []
        compared: list[str] = []
        ours, verdict = self._ours(one, bugs)
        kernel, peer = self._kernel(one, bugs)
        result: Result | None = None
        if verdict is not None and not _given(one, verdict):
            return _row(one, ours, kernel, compared, bugs)  # as an attachment would, nobody runs it
        trusted = ours == "" if self.verifier else kernel == "" and one.risky not in _UNDETERMINED
        if ours == "" or kernel == "":
            try:
                result = self.interpreter.run(one)
            except ProgramFault as fault:
                who = "by us" if ours == "" else "by the kernel"
                if (ours == "" or trusted) and not self._no_fault(fault, verdict, one):
                    bugs.append(("accepted and faulting", f"accepted {who}: {fault.message}"))
        if result is not None and ours == "":
            self._other_packets(one, verdict, bugs)
        if result is not None and trusted:
            if peer is not None:
                compared.append("kernel")
                found = compare("kernel", peer, "interpreter", result, narrow=True)
                if found and compare(
                    "kernel", peer, "", self.interpreter.run(one, inlined=True), narrow=True
                ):
                    bugs.append(("result", f"{found.engine} and {found.peer}: {found.what}"))
            for engine in self.compiled:
                try:
                    got = engine.run(one, verdict)
                except Exception as error:  # one more finding; the campaign goes on
                    text = str(error).splitlines()[0] if str(error) else ""
                    bugs.append(
                        ("internal error", f"{engine.name}: {type(error).__name__}: {text}")
                    )
                    continue
                compared.append(engine.name)
                if found := compare(engine.name, got, "interpreter", result):
                    bugs.append(("result", f"{found.engine} and {found.peer}: {found.what}"))
        return _row(one, ours, kernel, compared, bugs)

    def _other_packets(
        self, one: FuzzProgram, verdict: Verdict | None, bugs: list[tuple[str, str]]
    ) -> None:
        """What we accept must not fault on any input."""
        length = len(one.packet)
        rng = random.Random(one.seed)
        packets = [bytes(length), b"\xff" * length, rng.randbytes(length), rng.randbytes(1)]
        if one.risky == "gamble":
            packets += [bytes(rng.choices(_EDGES, k=length)) for _ in range(8)]
        for packet in packets:
            other = replace(one, packet=packet)
            try:
                self.interpreter.run(other)
            except ProgramFault as fault:
                if not self._no_fault(fault, verdict, other):
                    what = f"{fault.message}, packet {packet.hex()}"
                    bugs.append(("accepted and faulting", what))
                return

    def _no_fault(self, fault: ProgramFault, verdict: Verdict | None, one: FuzzProgram) -> bool:
        """A loop that the run-time budget ends: our verifier said so, or it ends with fewer rounds of may_goto.

        Also a helper that the reference does not have: a mutation may call any.
        """
        if fault.reason.endswith("there is none here"):
            return True
        if not fault.reason.startswith("is not done"):
            return False
        if verdict is not None and verdict.unbounded:
            return True
        try:
            self.interpreter.run(one, may_goto=_MAY_GOTO)
        except ProgramFault as other:
            return not other.reason.startswith("is not done")
        return True

    def _ours(
        self, one: FuzzProgram, bugs: list[tuple[str, str]]
    ) -> tuple[str | None, Verdict | None]:
        if not self.verifier:
            return None, None
        signal.setitimer(signal.ITIMER_VIRTUAL, _CPU_SECONDS)
        try:
            budget = 1 if one.seed % _JOINED == _JOINED - 1 else _BUDGET
            return "", verify(one.program, one.object, budget=budget)
        except VerifierRejected as refused:
            return _reason(refused), None
        except Exception as error:  # a finding, not the end of the campaign
            bugs.append(("internal error", f"verifier: {type(error).__name__}: {error}"))
            return None, None
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def _kernel(
        self, one: FuzzProgram, bugs: list[tuple[str, str]]
    ) -> tuple[str | None, Result | None]:
        if self.kernel is None:
            return None, None
        try:
            if len(one.packet) < _LEAST_PACKET or one.program.type not in PROGRAM_TYPES:
                return None, None
            return "", self.kernel.run(one)
        except VerifierRejected as refused:
            if refused.message.startswith(_KERNEL_LIMITS):
                return None, None
            return refused.message or "refused", None
        except NotPermitted:
            raise
        except WorkbenchError as error:
            if one.program.type in CONTEXT_BYTES:
                return "", None  # accepted, and the context is too short for it
            bugs.append(("internal error", f"kernel: {error.message}"))
            return None, None

    def close(self) -> None:
        """Let all memory and maps go."""
        self.interpreter.close()
        for engine in self.compiled:
            engine.close()


def _row(
    one: FuzzProgram,
    ours: str | None,
    kernel: str | None,
    compared: list[str],
    bugs: list[tuple[str, str]],
) -> dict[str, Any]:
    return {
        "seed": one.seed,
        "risky": one.risky,
        "ours": ours,
        "kernel": kernel,
        "compared": compared,
        "bugs": bugs,
    }


def _given(one: FuzzProgram, verdict: Verdict) -> bool:
    """The context has all the bytes that the program may read."""
    size = CONTEXT_BYTES.get(one.program.type)
    return size is None or verdict.context_size <= size


def _reason(refused: VerifierRejected) -> str:
    """What is wrong, without the place."""
    line = refused.message.splitlines()[0] if refused.message else "refused"
    return line.partition("the verifier refuses program main: ")[2] or line


def main(arguments: list[str]) -> int:
    """Run the seeds; one JSON line each."""

    def late(_number: int, _frame: object) -> None:
        raise TimeoutError(f"not done after {_CPU_SECONDS} s of processor time")

    signal.signal(signal.SIGVTALRM, late)
    first, count = int(arguments[0]), int(arguments[1])
    judge = Judge(tuple(arguments[2:]))
    out = sys.stdout
    try:
        out.write(json.dumps({"left_out": judge.left_out}) + "\n")
        for seed in range(first, first + count):
            out.write(json.dumps({"starts": seed}) + "\n")
            out.flush()
            out.write(json.dumps(judge.row(generate(seed))) + "\n")
        out.write(json.dumps({"done": True}) + "\n")
        out.flush()
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:  # Ctrl-C is the campaign's to report
        return 130
    finally:
        judge.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
