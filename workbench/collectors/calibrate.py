"""What one probe hit costs on this machine, by the class of the probed instruction.

A child process of ours calls tiny functions (first instruction: 5-byte nop, emulated, single-stepped) in a native loop,
probed by the same BPF programs that collectors use, in turn with twins of them that are not probed; cost = probed minus
bare. Kept per boot. On a busy machine disturbances only add to a batch, so batches are short, they are measured in CPU
time, and the cost is the lower quartile of them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from workbench.collectors.calibration_runner import Runner, machine_code
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
    "syscall_cost",
    "uprobe_cost",
)

Mode = Literal["count", "event", "call", "return"]
MODES: tuple[Mode, ...] = ("count", "event", "call", "return")
CLASSES = ("nop5", "emulated", "single-step")
_JUMP, _JUMPED = "jump", "emulated"  # of user space: any function that a jump fits into
_BATCHES = 60
_SYSCALL = "syscall jump"
_VERSION = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one hit in ns: lower quartile, 2.5th and 97.5th percentile over batches."""

    usual: float
    low: float
    high: float


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
                        if backend == "userspace":
                            loaded.programs[program].wait()
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
    with _probed(runner, name, mode, stack_bytes, backend):
        return _cost(*runner.compare(name, _BATCHES))


def _cost(probed: NDArray[np.float64], bare: NDArray[np.float64]) -> Cost:
    low, usual, high = np.percentile(probed, [2.5, 25, 97.5]) - np.percentile(bare, 25)
    return Cost(max(float(usual), 0.0), max(float(low), 0.0), max(float(high), 0.0))


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
        return Cost(*(float(_kept()[key][part]) for part in ("usual", "low", "high")))
    with Runner() as runner:
        if (_JUMPED if name == _JUMP else name) not in runner.places:
            raise MissingCapability(
                f"instruction class {name!r} does not exist on this architecture"
            )
        cost = _measure(runner, name, mode, stack_bytes)
    _keep({key: asdict(cost)})
    return cost


def syscall_cost() -> Cost:
    """Calibrated cost of counting one system call in user space: from this boot's cache, else measured now.

    Raises
    ------
    MissingCapability, NotPermitted
        It cannot be measured here.
    """
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return Cost(**_kept()[_SYSCALL])
    from workbench.objects.model import builtin

    constants = {"scope_machine": True, "nested": True}
    with (
        Runner() as bare,
        Runner() as hooked,
        builtin("syscalls").load("userspace", constants=constants, pid=hooked.pid) as loaded,
    ):
        for program, point in (("syscall_exit", "sys_exit"), ("syscall_enter", "sys_enter")):
            loaded.attach_raw_tracepoint(program, point, pid=hooked.pid)
            loaded.programs[program].wait()
        cost = _cost(*hooked.compare_system_calls(bare, _BATCHES))
    _keep({_SYSCALL: asdict(cost)})
    return cost


def measure_uprobe_costs(
    modes: tuple[Mode, ...] = ("count", "event", "call"),
) -> list[dict[str, Any]]:
    """Measure all classes and modes afresh.

    Returns
    -------
    list of dict
        ``class``, ``mode``, ``usual``, ``low``, ``high`` (ns per hit), classes and modes in the order of `CLASSES`
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
