"""Real servers under load in a guest: what SchedCoz predicts for their bottleneck, and what taking it out gives."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.bench.result import BenchResult, Check, Row
from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ("DESCRIPTION", "Servers", "run", "summarise")

DESCRIPTION = "redis, nginx, SQLite and memcached under load: predicted and measured gain of their bottleneck (minutes)"

_PROGRAMS = "/tmp/demonstrations"
_WORKLOADS = ("load_client", "web_application")
_LIBRARIES = ("redis_audit", "sqlite_score", "memcached_sign")
_REPEATS = 3
#: Points by which prediction and measurement may be apart, ns between two samples, seconds of an experiment.
_ALLOWED = {"deterministic": 2.0, "parallel": 6.0}
_PERIOD = {"deterministic": 100_000, "parallel": 1_000_000}
_SECONDS = {"deterministic": 0.2, "parallel": 0.6}
_SLOWEST = 3000.0  # seconds of wall time for a server and repeat, on a busy host


@dataclass(frozen=True, slots=True)
class Servers(BenchResult):
    """`gains` are those of `workbench.causal.demonstrations.gains.Gain`, with the `server`; `guest`: where."""

    gains: tuple[dict[str, Any], ...] = ()
    guest: str = ""

    def to_json(self) -> dict[str, Any]:
        """See `BenchResult.to_json`; with ``gains`` and ``guest``."""
        return BenchResult.to_json(self) | {"guest": self.guest, "gains": list(self.gains)}

    def __str__(self) -> str:
        lines = [self.guest, _HEAD]
        for one in self.gains:
            rank = str(one["rank"] or "")
            shown = [_interval(one, *names) for names in (_PREDICTED, _MEASURED)]
            lines.append(
                f"{one['server']:18s}{rank:>4s}  {one['spot']:26s}{one['speedup']:5.0%}{shown[0]:>26s}{shown[1]:>26s}"
            )
        return "\n".join([*lines, BenchResult.__str__(self)])


_HEAD = (
    f"{'server':18s}rank  {'region':26s}faster{'predicted change %':>25s}{'measured change %':>26s}"
)
_PREDICTED, _MEASURED = ("predicted", "low", "high"), ("measured", "measured_low", "measured_high")


def _interval(one: Mapping[str, Any], middle: str, low: str, high: str) -> str:
    if one[middle] is None:
        return "-"
    ends = "" if one[low] is None else f" ({one[low]:+.1f} to {one[high]:+.1f})"
    return f"{one[middle]:+.1f}{ends}"


def summarise(found: Sequence[Mapping[str, Any]], allowed: float, guest: str = "") -> Servers:
    """The result of what the guest printed: an object with ``server`` and ``gains`` each.

    Parameters
    ----------
    found : sequence of mapping
    allowed : float
        Points by which a prediction may be off.
    guest : str
    """
    rows, checks, listed = [], [], []
    for one in found:
        server = str(one["server"])
        for gain in one["gains"]:
            listed.append({"server": server, **gain})
            if not gain["bottleneck"]:
                continue
            name = f"{server}: {gain['spot']} {gain['speedup']:.0%} faster"
            rows.append(Row(f"{name}, predicted", _number(gain["predicted"]), "%"))
            if gain["measured"] is not None:
                rows.append(Row(f"{name}, measured", _number(gain["measured"]), "%"))
                error = abs(_number(gain["predicted"]) - gain["measured"])
                checks.append(Check.at_most(f"{name}: error, points", error, allowed))
            if gain["rank"]:
                checks.append(Check.at_most(f"{server}: rank of the bottleneck", gain["rank"], 1))
    return Servers("causal-servers", tuple(rows), tuple(checks), tuple(listed), guest)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def run(
    mode: str = "deterministic", servers: str = "", repeats: int = _REPEATS, recordings: str = ""
) -> Servers:
    """Boot a guest and measure.

    Parameters
    ----------
    mode : str
        Of the guest: ``deterministic``, or ``parallel``, whose numbers mean something on a quiet machine only.
    servers : str
        Names between commas; by default all.
    repeats : int
    recordings : str
        Folder that keeps the recordings; by default they are not kept.

    Raises
    ------
    BadSpec
        There is no such server.
    MissingCapability
        No guest is prepared.
    RunFailed
        The guest's part failed.
    """
    from workbench.causal.demonstrations.catalogue import DEMONSTRATIONS, demonstration
    from workbench.lab.vm import lab

    if mode not in _ALLOWED:
        raise BadSpec(f"there is no mode {mode!r}", f"there are: {', '.join(_ALLOWED)}")
    wanted = [demonstration(one).name for one in servers.split(",") if one] or list(DEMONSTRATIONS)
    found = []
    with lab(mode, priority="high" if mode == "parallel" else "normal") as vm:
        for program in programs():
            vm.copy_in(program, f"{_PROGRAMS}/")
        about = ", ".join(f"{name} {value}" for name, value in vm.about.items())
        for name in wanted:
            with tempfile.TemporaryDirectory() as folder:
                result = vm.run(
                    words([name], mode, repeats),
                    limit=_SLOWEST * repeats,
                    output=Path(recordings) if recordings else folder,
                    show=_show,
                    check=True,
                )
            found.append(json.loads(result.text.splitlines()[-1]))
    return summarise(found, _ALLOWED[mode], about)


def programs() -> list[Path]:
    """The project's own programs and libraries that demonstrations need."""
    from workbench.native.build import demonstration, workload

    return [*map(workload, _WORKLOADS), *map(demonstration, _LIBRARIES)]


def words(names: Sequence[str], mode: str, repeats: int, seconds: float | None = None) -> list[str]:
    """The command of the guest's part, whose recordings go to $OUT; an experiment takes `seconds`."""
    return [
        "sh", "-c",
        f"exec python3 -m workbench.causal.demonstrations {' '.join(names)} --programs {_PROGRAMS} --output $OUT "
        f"--rounds {repeats} --seconds {seconds or _SECONDS[mode]} --period {_PERIOD[mode]}",
    ]  # fmt: skip


def _show(stream: int, data: bytes) -> None:
    if stream == 2 and sys.stderr.isatty():
        sys.stderr.write(data.decode(errors="replace"))
