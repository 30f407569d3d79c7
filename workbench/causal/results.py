"""What experiments gave, as rows of a recording while they are made and as frames for the analysis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from workbench.causal.analysis import causal_profile, gate, phases
from workbench.causal.coz_format import write_coz

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from workbench.causal.controller import Experiment
    from workbench.frames.manifest import Status
    from workbench.frames.recording import Recording
    from workbench.frames.writer import RecordingWriter

__all__ = ("FRAMES", "Results")

FRAMES = ("experiments", "progress", "causal_profile", "causal_samples")
_COUNTERS = ("samples", "hits", "weighted", "payments", "paid", "lost")
_MISSED = 0.3  # part of the samples that may be lost
_LOST = 0.3  # part of the experiments that may be dropped before it is worth a word


class Results:
    """Rows of the frames `experiments` and `progress`.

    Parameters
    ----------
    writer : RecordingWriter
        Every experiment is on disk as soon as it is added.
    points : sequence of str
        Names of the progress points, in the order of `Experiment.measured`.
    """

    def __init__(self, writer: RecordingWriter, points: Sequence[str]) -> None:
        self.writer, self.points = writer, tuple(points)
        self._experiments: list[dict[str, Any]] = []
        self._progress: list[dict[str, Any]] = []
        #: Why the run is not to be believed, beside its own gate.
        self.refused: list[str] = []

    def __len__(self) -> int:
        return len(self._experiments)

    def add(self, one: Experiment) -> None:
        """Keep an experiment.

        Raises
        ------
        RunFailed
            The disk is full; what was kept before is safe.
        """
        first = one.measured[0] if one.measured else None
        row = {
            "number": one.number,
            "region": one.region,
            "speedup": one.speedup,
            "start": one.start,
            "duration": one.duration,
            "settled": one.settled,
            "valid": one.valid,
            "reason": one.reason,
            **{name: getattr(first, name) if first else 0 for name in _COUNTERS},
            "growth": first.grown if first else 0,
        }
        passed = [
            {
                "experiment": one.number,
                "point": point,
                "kind": "throughput" if each.departures is None else "latency",
                "count": each.count,
                "period": each.period,
                "real_period": each.real_period,
                "departures": each.departures or 0,
                "inside": each.inside,
            }
            for point, each in zip(self.points, one.measured, strict=False)
        ]
        self._experiments.append(row)
        self._progress += passed
        self.writer.append("experiments", {name: [value] for name, value in row.items()})
        if passed:
            columns = {name: [each[name] for each in passed] for name in passed[0]}
            self.writer.append("progress", columns)
        self.writer.flush()

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """`experiments` and `progress` as they are now."""
        import pandas as pd

        from workbench.frames.schema import schema

        return (
            pd.DataFrame(self._experiments, columns=list(schema("experiments").names)),
            pd.DataFrame(self._progress, columns=list(schema("progress").names)),
        )

    def finish(
        self,
        status: Status,
        reason: str,
        *,
        seed: int,
        tolerance: float,
        ended: str = "",
        samples: pd.DataFrame | None = None,
    ) -> Recording:
        """Analyse, and close the recording.

        Parameters
        ----------
        status, reason : str
            See `RecordingWriter.finish`.
        seed : int
            Of the bootstrap.
        tolerance : float
            See `workbench.causal.analysis.gate`.
        ended : str
            Why the kernel took the scheduler away, if it did.
        samples : DataFrame, optional
            Frame `causal_samples`.
        """
        import tempfile
        from pathlib import Path

        made, passed = self.frames()
        factors = {} if samples is None else phases(made, samples)
        table = causal_profile(made, passed, seed=seed, phase=factors)
        checked = gate(made, passed, tolerance=tolerance)
        if not self.writer.failure:
            for frame, rows in (("causal_profile", table), ("causal_samples", samples)):
                if rows is not None:
                    self.writer.append(frame, {str(name): rows[name].tolist() for name in rows})
            with tempfile.TemporaryDirectory(prefix="workbench-causal-") as folder:
                path = Path(folder) / "profile.coz"
                write_coz(path, made, passed, samples)
                self.writer.attach_file(path.name, path.read_bytes())
            self.writer.note(
                gate={
                    "ok": checked.ok and not self.refused,
                    "apart": checked.apart if math.isfinite(checked.apart) else None,
                    "reason": "; ".join([*self.refused, str(checked)]),
                },
                warnings=_warnings(made, ended),
            )
        return self.writer.finish(status, reason)


def _warnings(made: pd.DataFrame, ended: str) -> list[str]:
    """What a reader of the profile has to know."""
    found = []
    if ended:
        found.append(f"the kernel took the scheduler away: {ended}")
    dropped = made[~made["valid"].astype(bool)]
    if len(dropped) > _LOST * len(made):
        often = dropped["reason"].value_counts()
        found.append(
            f"{len(dropped)} of {len(made)} experiments do not count, {often.iloc[0]} because: {often.index[0]}"
        )
    for region, rows in made[made["samples"] > 0].groupby("region"):
        if not rows["hits"].sum():
            found.append(
                f"no sample was in {region}: it took no time that could be seen, and nothing can be said of it"
            )
    due = made["samples"].sum() + made["lost"].sum()
    if due and made["lost"].sum() > _MISSED * due:
        found.append(
            f"{made['lost'].sum() / due:.0%} of the samples did not come: the machine is too slow or too busy for the "
            "sample period (--sample-period); the others stand for them"
        )
    return found
