"""What one probe hit costs on this machine, by the class of the probed instruction.

A child process of ours calls three tiny functions (first instruction: 5-byte nop, emulated, single-stepped) in a
native loop, bare and probed by the same BPF programs that collectors use; cost = probed minus bare. Kept per boot.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workbench.collectors.calibration_file import START, image
from workbench.errors import MissingCapability
from workbench.frames.symbols.store import cache_folder

__all__ = (
    "CLASSES",
    "MODES",
    "Cost",
    "Mode",
    "Runner",
    "machine_code",
    "measure_uprobe_costs",
    "uprobe_cost",
)

Mode = Literal["count", "event", "call", "return"]
MODES: tuple[Mode, ...] = ("count", "event", "call", "return")
CLASSES = ("nop5", "emulated", "single-step")
_JUMP, _JUMPED = "jump", "emulated"  # of user space: any function that a jump fits into
_STEP = 256  # bytes for each loop with its function
_BATCHES = 25
_VERSION = 3


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one hit in ns: median and the 2.5th and 97.5th percentile over batches."""

    median: float
    low: float
    high: float


def machine_code(machine: str = "") -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Machine code, and per class (offset of the loop, offset of the function it calls).

    Raises
    ------
    MissingCapability
        No code is written for this architecture.
    """
    machine = machine or platform.machine()
    if machine == "x86_64":
        # push rbx; mov ebx, edi; call FUNCTION; dec ebx; jnz -9; pop rbx; ret
        def loop(distance: int) -> bytes:
            call = b"\xe8" + (distance - 8).to_bytes(4, "little", signed=True)
            return b"\x53\x89\xfb" + call + b"\xff\xcb\x75\xf7\x5b\xc3"

        functions = {
            "nop5": bytes.fromhex("0f1f440000c3"),  # nop; ret
            "emulated": bytes.fromhex("554889e55dc3"),  # push rbp; mov rbp, rsp; pop rbp; ret
            "single-step": bytes.fromhex("f30f1efac3"),  # endbr64; ret
        }
    elif machine == "aarch64":
        # stp x19, x30, [sp, -16]!; mov w19, w0; bl FUNCTION; subs w19, w19, 1; b.ne -8; ldp x19, x30, [sp], 16; ret
        def loop(distance: int) -> bytes:
            call = 0x94000000 | ((distance - 8) >> 2 & 0x3FFFFFF)
            words = (0xA9BF7BF3, 0x2A0003F3, call, 0x71000673, 0x54FFFFC1, 0xA8C17BF3, 0xD65F03C0)
            return b"".join(word.to_bytes(4, "little") for word in words)

        ret = 0xD65F03C0.to_bytes(4, "little")
        functions = {
            "emulated": 0xD503201F.to_bytes(4, "little") + ret,  # nop; ret
            "single-step": 0x91000000.to_bytes(4, "little") + ret,  # add x0, x0, 0; ret
        }
    else:
        raise MissingCapability(f"probe costs cannot be calibrated on {machine}")
    code = bytearray(_STEP * len(functions))
    places = {}
    for i, (name, body) in enumerate(functions.items()):
        at, target = _STEP * i, _STEP * i + _STEP // 2
        code[at : at + 64] = loop(target - at).ljust(64, b"\0")
        code[target : target + len(body)] = body
        places[name] = (at, target)
    return bytes(code), places


class Runner:
    """The child process and its file; `time` measures. A context manager."""

    def __init__(self) -> None:
        code, places = machine_code()
        half = _STEP // 2
        functions = {f"probed_{name}": (target, half) for name, (_, target) in places.items()}
        self.places = {name: (START + at, START + target) for name, (at, target) in places.items()}
        self._folder = tempfile.TemporaryDirectory(prefix="workbench-calibration-")
        self.path = str(Path(self._folder.name) / "code")
        Path(self.path).write_bytes(image(code, functions))
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

    def time(self, name: str, calls: int) -> float:
        """ns per call of the function of class `name`, over `calls` calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self.places[name][0]} {calls}\n")
        self._process.stdin.flush()
        return int(self._answer()) / calls


@contextlib.contextmanager
def _probed(
    runner: Runner, name: str, mode: Mode, stack_bytes: int, backend: str = "kernel"
) -> Iterator[None]:
    from workbench.kernel.maps import possible_cpus
    from workbench.objects.model import builtin

    join = mode == "call"
    programs = {
        "count": ["enter"],
        "event": ["enter"],
        "call": ["leave", "enter"],
        "return": ["leave"],
    }[mode]
    constants: dict[str, int | bool] = {
        "want_events": mode != "count",
        "join": join,
        "argument_slots": 0,
        "kernel_stacks": False,
        "want_stacks": stack_bytes >= 0,
        "copy_bytes": max(stack_bytes, 0),
        "wake_bytes": 1 << 30,
    }
    sizes = {"scratches": 4 * possible_cpus()} if stack_bytes >= 0 else {}
    for multi in (True, False):
        types = {} if multi else dict.fromkeys(programs, 0)
        with builtin("uprobe").load(
            backend,
            constants=constants,
            map_sizes=sizes,
            programs=programs,
            attach_types=types,
        ) as loaded:
            try:
                for program in programs:
                    back, offset = program == "leave", runner.places[name][1]
                    if multi:
                        loaded.attach_uprobes(
                            program,
                            runner.path,
                            [offset],
                            cookies=[0],
                            pid=runner.pid,
                            on_return=back,
                        )
                    else:
                        loaded.attach_uprobe_event(
                            program, runner.path, offset, pid=runner.pid, on_return=back
                        )
            except MissingCapability:
                if multi:
                    continue
                raise
            yield
            return


def _measure(runner: Runner, name: str, mode: Mode, stack_bytes: int = -1) -> Cost:
    backend = "userspace" if name == _JUMP else "kernel"
    name = _JUMPED if name == _JUMP else name
    bare = [runner.time(name, 20_000) for _ in range(7)]
    with _probed(runner, name, mode, stack_bytes, backend):
        runner.time(name, 20)
        calls = max(20, min(2000, int(1_000_000 / max(runner.time(name, 100), 1.0))))
        probed = [runner.time(name, calls) for _ in range(_BATCHES)]
    # The ring may be full after long runs; it is sized for more than all batches.
    low, median, high = np.percentile(np.array(probed) - np.median(bare), [2.5, 50, 97.5])
    return Cost(float(median), float(max(low, 0.0)), float(high))


def _file() -> Path:
    boot = Path("/proc/sys/kernel/random/boot_id")
    name = boot.read_text().strip() if boot.exists() else "unknown"
    return cache_folder() / f"calibration-{_VERSION}" / f"{name}-{os.geteuid()}.json"


def _kept() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(costs: dict[str, Any]) -> None:
    file = _file()
    part = file.with_name(f".{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # without a cache the next recording measures again
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({**_kept(), **costs}))
        part.replace(file)


def uprobe_cost(name: str, mode: Mode, *, on_return: bool = False, stack_bytes: int = -1) -> Cost:
    """Calibrated cost of one hit: from this boot's cache, else measured now (about 0.2 s).

    Parameters
    ----------
    name : str
        Class of the first instruction (`uprobe.instructions.instruction_class`), or "jump" for user space.
    mode : str
        count: counted only; event: a record per entry; call: entry and return joined to one record.
    on_return : bool
        Only the return is probed.
    stack_bytes : int
        Bytes of user stack copied per hit; 0 for the frame-pointer chain alone, -1 for no stack. The calibrated
        stack is that of a Python interpreter, of ordinary depth.

    Raises
    ------
    MissingCapability, NotPermitted
        It cannot be measured here.
    """
    if on_return:
        mode = "return"
    key = f"uprobe {name} {mode}" + (f" stack {stack_bytes}" if stack_bytes >= 0 else "")
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return Cost(*(float(_kept()[key][part]) for part in ("median", "low", "high")))
    with Runner() as runner:
        if (_JUMPED if name == _JUMP else name) not in runner.places:
            raise MissingCapability(
                f"instruction class {name!r} does not exist on this architecture"
            )
        cost = _measure(runner, name, mode, stack_bytes)
    _keep({key: asdict(cost)})
    return cost


def measure_uprobe_costs(
    modes: tuple[Mode, ...] = ("count", "event", "call"),
) -> list[dict[str, Any]]:
    """Measure all classes and modes afresh.

    Returns
    -------
    list of dict
        ``class``, ``mode``, ``median``, ``low``, ``high`` (ns per hit), classes and modes in the order of `CLASSES`
        and `modes`.
    """
    rows: list[dict[str, Any]] = []
    costs = {}
    with Runner() as runner:
        for name in (one for one in CLASSES if one in runner.places):
            for mode in modes:
                cost = _measure(runner, name, mode)
                costs[f"uprobe {name} {mode}"] = asdict(cost)
                rows.append({"class": name, "mode": mode, **asdict(cost)})
    _keep(costs)
    return rows
