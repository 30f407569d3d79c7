"""Frames of the demonstrations on real servers: single experiments, and what they come to."""

from __future__ import annotations

from workbench.frames.declaration import Column, Schema

__all__ = ("DEMONSTRATION_SCHEMAS",)

_BY = "workbench bench causal-servers"
_SPOT = Column("spot", "str", "", "region, as a reader knows it")
_REGION = Column("region", "str", "", "region, as it is looked up; text:FILE is all code of a file")
_SPEEDUP = Column(
    "speedup", "float64", "", "virtual speed-up of the region: 0.25 is 25 % less time"
)

DEMONSTRATION_SCHEMAS = (
    Schema(
        "demonstration_trials",
        "experiments on a real server, in the order in which they were made",
        (
            Column("number", "int32", "id", "counts from 1"),
            _SPOT,
            _REGION,
            _SPEEDUP,
            Column("removed", "float64", "", "part of the bottleneck that was really taken out meanwhile"),
            Column("count", "int64", "", "times the progress point was passed"),
            Column("period", "float64", "ns", "between two passes on the clock of those that passed; NaN below two"),
            Column("real_period", "float64", "ns", "the same on the machine's clock"),
            Column("samples", "int64", "", "samples of tasks in scope"),
            Column("hits", "int64", "", "of these, in the region"),
            Column("payments", "int64", "", "times a task was withheld"),
            Column("paid", "int64", "ns", "time in which tasks were withheld"),
            Column("valid", "bool", "", "it counts"),
        ),
        recorded_by=_BY,
    ),
    Schema(
        "demonstration_gains",
        "change of a real server's progress period: predicted by experiments, and measured with the bottleneck out",
        (
            _SPOT,
            _REGION,
            Column("bottleneck", "bool", "", "the one that is known to be it"),
            Column("rank", "int32", "", "1 is predicted to gain most without its time; 0 at other speed-ups"),
            _SPEEDUP,
            Column("predicted", "float64", "%", "change of the median period, of that at 0 %; negative is faster"),
            Column("low", "float64", "%", "2.5th percentile of a bootstrap; NaN with fewer than three experiments"),
            Column("high", "float64", "%", "97.5th percentile"),
            Column("measured", "float64", "%", "with as much of it really taken out; NaN: not done"),
            Column("measured_low", "float64", "%", "2.5th percentile of a bootstrap"),
            Column("measured_high", "float64", "%", "97.5th percentile"),
            Column("experiments", "int64", "", "valid experiments behind the prediction"),
        ),
        recorded_by=_BY,
    ),
)  # fmt: skip
