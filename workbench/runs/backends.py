"""One object in the kernel and in user space: what it finds, what a hit costs, what the verifier knows.

Behind notebook 03. The observed program calls SQLite as often as it is told, so both backends must find the same
numbers; costs are measured on three tiny functions of a child process, bare and probed in turn.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import MissingCapability, NotPermitted, RunFailed, VerifierRejected
from workbench.frames.recording import load
from workbench.frames.writer import RecordingWriter
from workbench.objects.model import BpfObject, builtin

if TYPE_CHECKING:
    import pandas as pd

    from workbench.frames.recording import Recording

__all__ = ("FUNCTIONS", "compare_backends", "cost_ratio", "side_by_side")

FUNCTIONS = (
    "sqlite3_bind_int64",
    "sqlite3_step",
    "sqlite3_reset",
    "sqlite3_column_int64",
)
BACKENDS = ("kernel", "userspace")
_SCRIPT = Path(__file__).with_name("backends_child.py")
_UPROBE_MULTI = 48  # enum bpf_attach_type
_ROUNDS, _BATCHES = 5, 9
_CALLS = {"bare": 20_000, "userspace": 20_000, "kernel": 200}
_RESULTS = {100: "100 (SQLITE_ROW)", 101: "101 (SQLITE_DONE)"}
_Entries = list[tuple[str, str, str, int]]


class _Child:
    """The program that calls SQLite."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_SCRIPT)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self.process.pid
        self.library = self._answer()
        if not self.library:
            self.close()
            raise MissingCapability(
                "SQLite's library was not found", "Debian: apt-get install libsqlite3-0"
            )

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise RunFailed(f"the program that calls SQLite ended with {self.process.returncode}")
        return line.strip()

    def work(self, rows: int) -> int:
        """Write and read `rows` rows; the sum of what was read."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{rows}\n")
        self.process.stdin.flush()
        return int(self._answer())

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _entries(obj: BpfObject, backend: str, child: _Child, rows: int) -> _Entries:
    """Run the example on the child's work and read every map: (backend, map, key, value)."""
    from workbench.kernel.ring import ColumnReader

    ring_bytes = 1 << max(16, (2 * rows * 64 - 1).bit_length())
    with obj.load(backend, map_sizes={"calls": ring_bytes}) as loaded:
        ring = loaded.ring("calls")
        try:
            for number, function in enumerate(FUNCTIONS):
                program = "count" if number else "called"
                loaded.attach(
                    program, f"{child.library}:{function}", pid=child.pid, cookie=number
                )
            loaded.attach("returned", f"{child.library}:{FUNCTIONS[1]}", pid=child.pid)
            child.work(rows)
            loaded.detach()
            reader = ColumnReader(ring, obj.record_dtype("calls"))
            arguments = reader.take(reader.drain())["argument"].copy()
        finally:
            ring.close()
        counts = np.asarray(loaded.maps["counts"].table()[1]).reshape(-1, _cpus(loaded)).sum(1)
        sizes = np.asarray(loaded.maps["sizes"].table()[1])
        codes, times = loaded.maps["results"].table()
        lost = int(loaded.globals["lost"][()])
    found = [("counts", name, int(n)) for name, n in zip(FUNCTIONS, counts, strict=False)]
    found += [("sizes", f"2^{power}", int(n)) for power, n in enumerate(sizes) if n]
    found += sorted(
        ("results", _RESULTS.get(int(c), str(int(c))), int(n))
        for c, n in zip(codes, times, strict=True)
    )
    found += [
        ("calls", "records", len(arguments)),
        ("calls", "sum of arguments", int(arguments.sum())),
        ("calls", "lost", lost),
    ]
    return [(backend, *one) for one in found]


def _cpus(loaded: Any) -> int:
    values = np.asarray(loaded.maps["counts"].table()[1])
    return int(values.size // len(loaded.maps["counts"].table()[0]))


@contextmanager
def _hooked(obj: BpfObject, backend: str) -> Iterator[Any]:
    """A function that attaches program `count` to a place."""
    if backend == "userspace":
        with obj.load("userspace", programs=["count"]) as loaded:
            yield lambda path, at, pid: loaded.attach_uprobes("count", path, [at], pid=pid)
        return
    with ExitStack() as stack:
        several: list[Any] = []

        def attach(path: str, at: int, pid: int) -> Any:
            if not several:
                try:
                    kind = {"count": _UPROBE_MULTI}
                    one = stack.enter_context(
                        obj.load("kernel", programs=["count"], attach_types=kind)
                    )
                    link = one.attach_uprobes("count", path, [at], pid=pid)
                    several.append(one)
                    return link
                except MissingCapability:
                    several.append(None)
                    several.append(stack.enter_context(obj.load("kernel", programs=["count"])))
            if several[0] is not None:
                return several[0].attach_uprobes("count", path, [at], pid=pid)
            return several[1].attach_uprobe_event("count", path, at, pid=pid)

        yield attach


def _costs(obj: BpfObject, backends: Sequence[str]) -> list[tuple[str, str, float, float, float]]:
    """(backend, class, median, low, high) in ns per hit: probed minus bare, in turn."""
    from workbench.collectors.calibrate import Runner
    from workbench.notebook.progress import Progress

    with Runner() as runner, ExitStack() as stack:
        hooks = {one: stack.enter_context(_hooked(obj, one)) for one in backends}
        took: dict[tuple[str, str], list[float]] = {}
        progress = stack.enter_context(Progress("measuring what a hit costs"))
        for number in range(_ROUNDS):
            progress.update(number / _ROUNDS)
            for name, (_, place) in runner.places.items():
                bare = [runner.time(name, _CALLS["bare"]) for _ in range(_BATCHES)]
                for backend, attach in hooks.items():
                    with attach(runner.path, place, runner.pid):
                        runner.time(name, _CALLS[backend] // 10)
                        took.setdefault((backend, name), []).extend(
                            runner.time(name, _CALLS[backend]) - float(np.median(bare))
                            for _ in range(_BATCHES)
                        )
    rows = []
    for (backend, name), costs in took.items():
        low, median, high = np.percentile(costs, [2.5, 50, 97.5])
        rows.append((backend, name, float(median), max(float(low), 0.0), float(high)))
    return sorted(rows, key=lambda row: BACKENDS.index(row[0]))


def _verdicts(objects: Sequence[BpfObject]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Frames `verdicts` and `verifier_states` of every program."""
    import pandas as pd

    from workbench.runtime.verifier import verify
    from workbench.runtime.verify import linked_for_user_space

    rows: list[dict[str, Any]] = []
    states: list[pd.DataFrame] = []
    for obj in objects:
        linked = linked_for_user_space(obj)
        for name, program in linked.programs.items():
            row = {
                "program": name, "section": program.section, "instructions": len(program.code) // 8,
                "accepted": False, "steps": 0, "states": 0, "stack": 0, "reason": "",
            }  # fmt: skip
            rows.append(row)
            try:
                verdict = verify(program, linked)
            except VerifierRejected as error:
                row["reason"] = f"{error.message}\nhint: {error.hint}"
                continue
            row |= {
                "accepted": True, "steps": verdict.steps, "states": verdict.states,
                "stack": verdict.stack_depth,
            }  # fmt: skip
            states.append(verdict.frame.assign(program=name))
    known = pd.concat(states) if states else pd.DataFrame()
    return _lists(pd.DataFrame(rows)), _lists(known)


def _lists(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): frame[name].tolist() for name in frame}


def compare_backends(
    output: str | Path = "backends",
    *,
    rows: int = 2000,
    refused: str = "",
    recorded: str | Path = "",
    overwrite: bool = False,
) -> Recording:
    """Run the example object (`bpf/example_calls.bpf.c`) in the kernel and in user space; takes a few seconds.

    Parameters
    ----------
    output : path
        Folder of the recording.
    rows : int
        Rows that the observed program writes into SQLite and reads back.
    refused : str
        C source of programs for the verifier to look at as well, such as one that it refuses.
    recorded : path, optional
        Recording whose kernel half (of as many rows) is taken where the kernel takes no programs of this user; costs
        are not taken, for another machine's cannot be compared.
    overwrite : bool
        Replace the folder.

    Returns
    -------
    Recording
        Frames `map_entries`, `overhead`, `verdicts` and `verifier_states`.

    Raises
    ------
    MissingCapability
        User space cannot be entered here, or llvmlite is missing.
    """
    obj = builtin("example_calls")
    options = {"rows": rows}
    command = [Path(sys.executable).name, _SCRIPT.name]
    with RecordingWriter(
        output, command=command, collectors=["example_calls"], options=options, overwrite=overwrite
    ) as writer:
        try:
            entries, able = _both(obj, rows, recorded)
            costs = _costs(obj, able)
            verdicts, states = _verdicts([obj, *_compiled(refused)])
        except BaseException:
            writer.discard()
            raise
        names = ("backend", "map", "key", "value")
        writer.append("map_entries", dict(zip(names, zip(*entries, strict=True), strict=True)))
        writer.append("overhead", _overhead(costs))
        writer.append("verdicts", verdicts)
        writer.append("verifier_states", states)
        writer.note(options={**options, "backends": able})
        return writer.finish()


def _both(obj: BpfObject, rows: int, recorded: str | Path) -> tuple[_Entries, list[str]]:
    """Entries of both backends, and which of them ran here."""
    with _Child() as child:
        entries = _entries(obj, "userspace", child, rows)
        try:
            return entries + _entries(obj, "kernel", child, rows), list(BACKENDS)
        except (NotPermitted, MissingCapability) as error:
            why = error.message.splitlines()[0]
    held = _kept(recorded, rows)
    print(
        f"the kernel takes no program of this user ({why}): "
        + (f"its results are those in {recorded}" if held else "user space alone")
    )
    return entries + held, ["userspace"]


def _compiled(source: str) -> list[BpfObject]:
    import tempfile

    from workbench.objects.model import compile as compile_object

    if not source:
        return []
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        path = Path(folder) / "program.bpf.c"
        path.write_text(source)
        try:
            return [compile_object(path)]
        except MissingCapability as error:
            print(f"the programs that were given as C are left out: {error.message}")
            return []


def _kept(recorded: str | Path, rows: int) -> _Entries:
    if not recorded or not Path(recorded).exists():
        return []
    kept = load(recorded)
    if kept.manifest.options.get("rows") != rows:
        return []
    frame = kept.frame("map_entries")
    frame = frame[frame["backend"] == "kernel"]
    return list(frame[["backend", "map", "key", "value"]].itertuples(index=False, name=None))


def _overhead(costs: Sequence[tuple[str, str, float, float, float]]) -> dict[str, Any]:
    return {
        "collector": [row[0] for row in costs],
        "probe": ["count per CPU"] * len(costs),
        "instruction_class": [row[1] for row in costs],
        "hits": np.zeros(len(costs), np.int64),
        "cost": np.array([row[2] for row in costs]),
        "cost_low": np.array([row[3] for row in costs]),
        "cost_high": np.array([row[4] for row in costs]),
        "total": np.zeros(len(costs)),
    }


def side_by_side(recording: Recording) -> pd.DataFrame:
    """What the programs left in their maps: one row per entry, one column per backend, and whether they are equal.

    An entry that one backend lacks counts as 0.
    """
    frame = recording.frame("map_entries").astype({"backend": str, "map": str, "key": str})
    table = frame.pivot_table(
        index=["map", "key"], columns="backend", values="value", fill_value=0, sort=False
    ).astype("int64")
    table.columns.name = None
    if set(BACKENDS) <= set(table.columns):
        table = table[list(BACKENDS)]
        table["equal"] = table["kernel"] == table["userspace"]
    return table.reset_index()


def cost_ratio(recording: Recording) -> float:
    """How many times cheaper user space's dearest class is than the kernel's cheapest; nan without both."""
    frame = recording.frame("overhead")
    kernel = frame.loc[frame["collector"] == "kernel", "cost"]
    ours = frame.loc[frame["collector"] == "userspace", "cost"]
    return float(kernel.min() / ours.max()) if len(kernel) and len(ours) else float("nan")
