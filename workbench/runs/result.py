"""What `run` and `reproduce` return."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.runs.claims import Value, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

__all__ = ("Interrupted", "PointResult", "RunResult")


@dataclass(frozen=True, slots=True)
class PointResult:
    """One executed (or cached) notebook.

    Parameters
    ----------
    experiment, point : str
        Names; `point` is empty where the experiment has no grid.
    parameters : mapping
        What the notebook was run with.
    source : str
        ``live`` or ``replay``.
    status : str
        ``completed``, ``failed`` or ``interrupted``.
    cached : bool
        Taken from an earlier run with the same key.
    error : str
        One line; empty for a completed run.
    seconds : float
        Duration of the run (of the earlier one if cached).
    folder, notebook, html, log : pathlib.Path
        Outputs; after a failure `notebook` shows where it happened. A run that never started has none.
    claims : mapping
        Every claim of the notebook, whether the experiment file expects it or not.
    verdicts : tuple of Verdict
        The claims that the experiment file expects.
    """

    experiment: str
    point: str
    parameters: Mapping[str, Any]
    source: str
    status: str
    cached: bool
    error: str
    seconds: float
    folder: Path
    notebook: Path
    html: Path
    log: Path
    claims: Mapping[str, Value]
    verdicts: tuple[Verdict, ...]

    @property
    def title(self) -> str:
        """Experiment and point, for messages."""
        return f"{self.experiment} {self.point}".rstrip()

    def as_json(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "experiment": self.experiment,
            "point": self.point,
            "parameters": dict(self.parameters),
            "source": self.source,
            "status": self.status,
            "cached": self.cached,
            "error": self.error,
            "seconds": round(self.seconds, 3),
            "notebook": str(self.notebook),
            "html": str(self.html),
            "log": str(self.log),
            "claims": {name: repr(value) if value != value else value for name, value in self.claims.items()},
        }


@dataclass(frozen=True, slots=True)
class RunResult:
    """All runs of an experiment or a paper, in order."""

    title: str
    folder: Path
    points: tuple[PointResult, ...]

    @property
    def completed(self) -> bool:
        """Whether every notebook ran to its end."""
        return all(point.status == "completed" for point in self.points)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Every judged claim."""
        return tuple(verdict for point in self.points for verdict in point.verdicts)

    @property
    def ok(self) -> bool:
        """Whether every notebook ran to its end and every claim holds."""
        return self.completed and all(verdict.ok for verdict in self.verdicts)

    def frame(self) -> pd.DataFrame:
        """One row per run: parameters, then claims, then ``status`` and ``seconds``."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "experiment": point.experiment,
                    **point.parameters,
                    **point.claims,
                    "source": point.source,
                    "status": point.status,
                    "seconds": point.seconds,
                }
                for point in self.points
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "title": self.title,
            "folder": str(self.folder),
            "ok": self.ok,
            "points": [point.as_json() for point in self.points],
            "claims": [verdict.as_json() for verdict in self.verdicts],
        }


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; what was done is kept, and a second run goes on from there.

    ``result`` holds what is known of every run; ``exit_status`` is 130 after SIGINT and 143 after SIGTERM.
    """

    def __init__(self, result: RunResult, exit_status: int) -> None:
        super().__init__("interrupted")
        self.result = result
        self.exit_status = exit_status
