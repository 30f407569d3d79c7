"""What SchedCoz counted, as numbers with a meaning: progress and latencies of an experiment, samples by place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

__all__ = ("Located", "Measured", "latency", "step")


@dataclass(frozen=True)
class Measured:
    """What one experiment gave for one progress point.

    `count` passes; `period` ns between two on the clock of the tasks that passed (R7); `real_period` ns of the machine;
    `grown` ns that the common clock was held back; `samples` in scope and `hits` in the region; `weighted` ns that the
    hits stand for; `payments` and `paid` ns; `valid` False when the scheduler was not in charge throughout; `lost`
    samples that were due and did not come, which the others stand for.

    Of a latency (`departures` is not None) `count` is arrivals, `inside` the mean number of those between begin and
    end, and `period` the time from begin to end by Little's law, inside x time between two arrivals, on the clocks of
    the tasks; `real_period` is NaN.
    """

    count: int
    period: float
    real_period: float
    grown: int
    elapsed: int
    samples: int
    hits: int
    weighted: int
    payments: int
    paid: int
    merges: int
    kicks: int
    valid: bool
    lost: int = 0
    departures: int | None = None
    inside: float = float("nan")


@dataclass(frozen=True)
class Located:
    """Samples of process `pid` at `address` (0: no frame of theirs is in scope): `count`, the ns (`weight`) they stand
    for, and how many of them (`plain`) were taken in experiments at 0 %.
    """

    pid: int
    address: int
    count: int
    weight: int
    plain: int


def step(point: NDArray[Any], first: str = "first", last: str = "last") -> float:
    """Mean time between two passes of a point, ns; NaN below two."""
    steps = int(point["count"]) - 1
    return (int(point[last]) - int(point[first])) / steps if steps > 0 else float("nan")


def latency(
    before: NDArray[Any], after: NDArray[Any], window: tuple[int, int], whole: Mapping[str, Any]
) -> Measured:
    """What an experiment gave for a latency.

    Parameters
    ----------
    before, after : structured array, shape (2,)
        Points of its begin and its end (struct progress_point of bpf/schedcoz_state.h), when the experiment began and
        when it ended.
    window : tuple of int
        Both moments on the common clock, ns.
    whole : mapping
        The fields of `Measured` that all points of an experiment have in common.

    Notes
    -----
    The number inside, integrated over the window, is the sum of the clocks at which they left minus that at which they
    came, with those inside at both ends of the window. (Coz takes the number inside at the one moment when the
    experiment ends for its mean: libcoz/progress_point.h.) Who was inside before the scheduler was loaded is known once
    fewer than none were seen to be left.
    """
    missed = max(0, -int(after["lowest"][1]))
    inside = [int(one["entered"][0]) - int(one["entered"][1]) + missed for one in (before, after)]
    arrivals, departures = (
        int(new) - int(old) for new, old in zip(after["left"], before["left"], strict=True)
    )
    came, went = (
        int(new) - int(old) for new, old in zip(after["stamps"], before["stamps"], strict=True)
    )
    area = inside[1] * window[1] - inside[0] * window[0] + went - came
    area = (area + (1 << 63)) % (1 << 64) - (1 << 63)  # the sums are modulo 2^64
    settled = all((one["entered"] == one["left"]).all() for one in (before, after))
    mean = area / (window[1] - window[0]) if settled and window[1] > window[0] else float("nan")
    return Measured(
        count=arrivals,
        period=mean * step(after[0]),
        real_period=float("nan"),
        departures=departures,
        inside=mean,
        **whole,
    )
