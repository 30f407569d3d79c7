"""A child process of ours with tiny functions to probe, and how long its calls of them take."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.collectors.calibration_file import START, image
from workbench.errors import MissingCapability

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ("Runner", "machine_code", "system_call_loop")

_STEP = 256  # bytes for each loop with its function
_BATCHES, _BATCH_NS = 10, 50_000


def _loop(machine: str, distance: int) -> bytes:
    """Code that calls what begins `distance` bytes on, as often as its argument says."""
    if machine == "x86_64":
        # push rbx; mov ebx, edi; call FUNCTION; dec ebx; jnz -9; pop rbx; ret
        call = b"\xe8" + (distance - 8).to_bytes(4, "little", signed=True)
        return b"\x53\x89\xfb" + call + b"\xff\xcb\x75\xf7\x5b\xc3"
    # stp x19, x30, [sp, -16]!; mov w19, w0; bl FUNCTION; subs w19, w19, 1; b.ne -8; ldp x19, x30, [sp], 16; ret
    branch = 0x94000000 | ((distance - 8) >> 2 & 0x3FFFFFF)
    words = (0xA9BF7BF3, 0x2A0003F3, branch, 0x71000673, 0x54FFFFC1, 0xA8C17BF3, 0xD65F03C0)
    return b"".join(word.to_bytes(4, "little") for word in words)


def _functions(machine: str) -> dict[str, bytes]:
    if machine == "x86_64":
        return {
            "nop5": bytes.fromhex("0f1f440000c3"),  # nop; ret
            "emulated": bytes.fromhex("554889e55dc3"),  # push rbp; mov rbp, rsp; pop rbp; ret
            "single-step": bytes.fromhex("f30f1efac3"),  # endbr64; ret
        }
    if machine == "aarch64":
        ret = 0xD65F03C0.to_bytes(4, "little")
        return {
            "emulated": 0xD503201F.to_bytes(4, "little") + ret,  # nop; ret
            "single-step": 0x91000000.to_bytes(4, "little") + ret,  # add x0, x0, 0; ret
        }
    raise MissingCapability(f"probe costs cannot be calibrated on {machine}")


def machine_code(machine: str = "") -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Machine code, and per class (offset of the loop, offset of the function it calls).

    The second half of the code is a copy of the first, which nobody probes.

    Raises
    ------
    MissingCapability
        No code is written for this architecture.
    """
    machine = machine or platform.machine()
    functions = _functions(machine)
    code = bytearray(_STEP * len(functions))
    places = {}
    for i, (name, body) in enumerate(functions.items()):
        at, target = _STEP * i, _STEP * i + _STEP // 2
        code[at : at + 64] = _loop(machine, target - at).ljust(64, b"\0")
        code[target : target + len(body)] = body
        places[name] = (at, target)
    return bytes(code) * 2, places


def system_call_loop(machine: str = "") -> bytes:
    """Code that makes a system call (getppid), as often as its argument says.

    Raises
    ------
    MissingCapability
        No code is written for this architecture.
    """
    machine = machine or platform.machine()
    if machine == "x86_64":
        # push rbx; mov ebx, edi; mov eax, 110; syscall; dec ebx; jnz -11; pop rbx; ret
        return bytes.fromhex("5389fbb86e0000000f05ffcb75f55bc3")
    if machine == "aarch64":
        # mov w2, w0; mov x8, 173; svc 0; subs w2, w2, 1; b.ne -12; ret
        words = (0x2A0003E2, 0xD28015A8, 0xD4000001, 0x71000442, 0x54FFFFA1, 0xD65F03C0)
        return b"".join(word.to_bytes(4, "little") for word in words)
    raise MissingCapability(f"costs of system calls cannot be calibrated on {machine}")


class Runner:
    """The child process and its file. A context manager.

    Attributes
    ----------
    places : dict of str to (int, int)
        Per class of function, the offsets in the file of the loop and of the function that it calls.
    """

    def __init__(self) -> None:
        code, places = machine_code()
        half = _STEP // 2
        functions = {f"probed_{name}": (target, half) for name, (_, target) in places.items()}
        self.places = {name: (START + at, START + target) for name, (at, target) in places.items()}
        self._bare = len(code) // 2
        self._calls = START + len(code)
        self._folder = tempfile.TemporaryDirectory(prefix="workbench-calibration-")
        self.path = str(Path(self._folder.name) / "code")
        loop = system_call_loop()
        functions["system_calls"] = (len(code), len(loop))
        Path(self.path).write_bytes(image(code + loop, functions))
        script = Path(__file__).with_name("calibration_child.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pid = self._process.pid
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child and remove its file."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MissingCapability(
                "the calibration process died",
                "executable mappings of files in the temporary folder may be forbidden",
            )
        return line.strip()

    def _run(self, calls: int, rounds: int, *offsets: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """ns per call and whether the batch was interrupted, shape (rounds, offsets) each."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, (calls, rounds, *offsets))) + "\n")
        self._process.stdin.flush()
        found = np.array(self._answer().split(), np.float64).reshape(rounds, len(offsets), 2)
        return found[:, :, 0] / calls, found[:, :, 1] > 0

    def time(self, name: str, calls: int) -> float:
        """ns of CPU time per call of the function of class `name`, over `calls` calls."""
        return float(self._run(calls, 1, self.places[name][0])[0][0, 0])

    def _calls_of(self, offset: int) -> int:
        """Calls of a batch that is short against the time that a scheduler gives."""
        self._run(20, 1, offset)
        took = float(self._run(50, 5, offset)[0].min())
        return max(20, min(2000, int(_BATCH_NS / max(took, 1.0))))

    def compare(self, name: str, batches: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """ns per call of the probed function of a class and of its twin that is not probed, in alternating batches.

        Batches in which the scheduler took the CPU away are left out, unless few are left.
        """
        probed = self.places[name][0]
        took, interrupted = self._run(self._calls_of(probed), batches, probed, probed + self._bare)
        return _undisturbed(took[:, 0], interrupted[:, 0]), _undisturbed(took[:, 1], interrupted[:, 1])

    def compare_system_calls(
        self, other: Runner, batches: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As `compare`, for a system call of this process and of another one that is not hooked."""
        calls = self._calls_of(self._calls)
        columns: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = ([], [])
        marks: tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]] = ([], [])
        for _ in range(-(-batches // _BATCHES)):
            for runner, column, mark in zip((self, other), columns, marks, strict=True):
                took, interrupted = runner._run(calls, _BATCHES, runner._calls)
                column.append(took[:, 0])
                mark.append(interrupted[:, 0])
        hooked, bare = (
            _undisturbed(np.concatenate(column), np.concatenate(mark))
            for column, mark in zip(columns, marks, strict=True)
        )
        return hooked, bare


def _undisturbed(took: NDArray[np.float64], interrupted: NDArray[np.bool_]) -> NDArray[np.float64]:
    kept = took[~interrupted]
    return kept if len(kept) >= len(took) // 4 else took
