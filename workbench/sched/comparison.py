"""The same mixed workload under several schedulers: how long wake-ups wait, when work is done. Behind notebook 05.

Runs on this machine where it has sched_ext, else in a guest of the lab; the recording says where. Run as a module it
is the part that runs in the guest.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import BadSpec, RunFailed
from workbench.frames.writer import RecordingWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from workbench.frames.recording import Recording
    from workbench.objects.model import BpfObject

__all__ = ("Variant", "compare")

_PROGRAM = Path(__file__).with_name("mixed.py")
_LIMIT = 120.0  # seconds of its own clock that a workload may take
_HERTZ = 20.0


@dataclass(frozen=True)
class Variant:
    """A scheduler to compare: `label` for the reader; `scheduler` an object, the name of one of the project's own, or
    None for the kernel's own scheduler; `constants` values of its ``const volatile`` variables.
    """

    label: str
    scheduler: BpfObject | str | None = None
    constants: dict[str, int] = field(default_factory=dict)

    @property
    def object(self) -> BpfObject | None:
        """The scheduler's object."""
        from workbench.objects.model import builtin

        return builtin(self.scheduler) if isinstance(self.scheduler, str) else self.scheduler


def compare(
    output: str | Path,
    variants: Sequence[Variant],
    *,
    computing: int = 3,
    rounds: int = 2_000_000,
    interval: int = 10_000_000,
    lab: bool | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Recording:
    """Run `computing` processes of `rounds` loops each, and one that wakes every `interval` ns, under each scheduler.

    Parameters
    ----------
    output : path
        Folder of the recording.
    variants : sequence of Variant
    lab : bool, optional
        In a guest (deterministic: one CPU, time counted in instructions); by default where this machine has no
        sched_ext.
    overwrite : bool
        Replace the folder.
    progress : callable, optional
        Called with a line of text when something takes longer than a moment.

    Returns
    -------
    Recording
        Frames `scheduler_tasks`, `scheduler_waits`, `scheduler_counters`.

    Raises
    ------
    BadSpec
        No variant, or two of one label.
    MissingCapability
        Neither sched_ext here nor a guest.
    RunFailed
        The workload did not end, or a scheduler was taken away meanwhile.
    """
    labels = [one.label for one in variants]
    if not labels or len(set(labels)) < len(labels):
        raise BadSpec("the variants need labels of their own", "one Variant for each scheduler")
    shape = {"computing": computing, "rounds": rounds, "interval": interval}
    objects = [one.object for one in variants]
    if lab is None:
        from workbench.host import check

        lab = not check("sched_ext").ok
    if not lab:
        pairs = list(zip(variants, objects, strict=True))
        return _record(Path(output), pairs, shape, {}, overwrite=overwrite)
    return _in_guest(Path(output), variants, objects, shape, progress, overwrite=overwrite)


def _in_guest(
    output: Path,
    variants: Sequence[Variant],
    objects: Sequence[BpfObject | None],
    shape: dict[str, int],
    progress: Callable[[str], None] | None,
    *,
    overwrite: bool,
) -> Recording:
    from workbench.frames import place
    from workbench.frames.recording import load
    from workbench.lab.vm import lab

    target = output.absolute()
    place.check_output(target, overwrite=overwrite)
    with tempfile.TemporaryDirectory() as temporary, lab(progress=progress) as vm:
        folder = Path(temporary) / "compare"
        folder.mkdir()
        rows = []
        for number, (one, obj) in enumerate(zip(variants, objects, strict=True)):
            if obj is not None:
                (folder / f"{number}.bpf.o").write_bytes(obj.data)
            rows.append([one.label, f"{number}.bpf.o" if obj else "", one.constants])
        spec = {"variants": rows, "shape": shape, "guest": vm.about}
        (folder / "spec.json").write_text(json.dumps(spec))
        vm.copy_in(folder)
        words = ["python3", "-m", "workbench.sched.comparison", "/tmp/compare", "/out/recording"]
        back = Path(temporary) / "back"
        vm.run(words, output=back, limit=900, check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            place.remove_recording(target)
        shutil.move(back / "recording", target)
    return load(target)


def _record(
    output: Path,
    pairs: Sequence[tuple[Variant, BpfObject | None]],
    shape: dict[str, int],
    guest: dict[str, Any],
    *,
    overwrite: bool,
) -> Recording:
    command = [Path(sys.executable).name, _PROGRAM.name, *map(str, shape.values())]
    options = {**shape, "guest": guest}
    with RecordingWriter(output, command=command, options=options, overwrite=overwrite) as writer:
        try:
            for variant, obj in pairs:
                _run(writer, variant, obj, list(map(str, shape.values())))
        except BaseException:
            writer.discard()
            raise
    return writer.finish()


def _run(
    writer: RecordingWriter, variant: Variant, obj: BpfObject | None, words: list[str]
) -> None:
    """One variant: the workload under it, its counters, everything into the frames."""
    from workbench.sched.scheduler import Scheduler

    command = [sys.executable, "-I", "-S", str(_PROGRAM), *words]
    ended = ""
    if obj is None:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        text = process.communicate(timeout=_LIMIT)[0]
    else:
        with Scheduler(obj, constants=variant.constants) as scheduler:
            process = scheduler.start(command, stdout=subprocess.PIPE)
            readings = scheduler.readings(_LIMIT, _HERTZ, until=process)
            text = process.communicate(timeout=_LIMIT)[0]
            early = not scheduler.in_charge
        ended = str(scheduler.exit)
        if early:
            raise RunFailed(f"the kernel took {variant.label!r} away: {ended}", "see docs/sched.md")
        times, counters, values, of = zip(*readings, strict=True)
        columns = {"time": times, "counter": counters, "value": values, "source": of}
        writer.append("scheduler_counters", _labelled(variant.label, columns))
    if process.returncode:
        raise RunFailed(f"the workload ended with status {process.returncode}")
    found = json.loads(text)
    for task in found["tasks"]:
        row = {name: [task[name]] for name in ("task", "kind", "cpu")}
        row |= {name: [task[name] - found["start"]] for name in ("begin", "end")}
        writer.append("scheduler_tasks", _labelled(variant.label, {**row, "exit": [ended]}))
        if task["waits"]:
            numbers = list(range(len(task["waits"])))
            waits = {"number": numbers, "wait": task["waits"]}
            writer.append("scheduler_waits", _labelled(variant.label, waits))


def _labelled(label: str, columns: dict[str, Any]) -> dict[str, Any]:
    rows = len(next(iter(columns.values())))
    return {"scheduler": [label] * rows, **{name: list(one) for name, one in columns.items()}}


def main(folder: str, output: str) -> None:
    """The guest's part: run what `_in_guest` copied in."""
    from workbench.objects.model import open

    spec = json.loads((Path(folder) / "spec.json").read_text())
    pairs = [
        (Variant(label, None, constants), open(Path(folder) / file) if file else None)
        for label, file, constants in spec["variants"]
    ]
    _record(Path(output), pairs, spec["shape"], spec["guest"], overwrite=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
