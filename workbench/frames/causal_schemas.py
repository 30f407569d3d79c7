"""Frames of causal profiling: the experiments, what each gave, and what they predict."""

from __future__ import annotations

from workbench.frames.declaration import Column, Schema

__all__ = ("CAUSAL_SCHEMAS",)

_BY = "workbench causal"
_REGION = Column("region", "str", "", "what was sped up, as it was asked for")
_SPEEDUP = Column("speedup", "float64", "", "virtual speed-up of the region: 0.25 is 25 % less time")
_POINT = Column("point", "str", "", "progress point, as it was asked for")

CAUSAL_SCHEMAS = (
    Schema(
        "experiments",
        "experiments of causal profiling, in the order in which they were made",
        (
            Column("number", "int32", "id", "counts from 1"),
            _REGION,
            _SPEEDUP,
            Column("start", "int64", "ns", "when it began, on CLOCK_MONOTONIC"),
            Column("duration", "int64", "ns", "how long it took"),
            Column("valid", "bool", "", "it counts"),
            Column("reason", "str", "", "why it does not count, else empty"),
            Column("samples", "int64", "", "samples of tasks in scope"),
            Column("hits", "int64", "", "of these, in the region"),
            Column("weighted", "int64", "ns", "time that the hits stand for"),
            Column("payments", "int64", "", "times a task was withheld"),
            Column("paid", "int64", "ns", "time in which tasks were withheld"),
            Column("growth", "int64", "ns", "virtual time that the speed-up took off: the slowest clock's delay"),
        ),
        recorded_by=_BY,
    ),
    Schema(
        "progress",
        "how often each progress point was passed in each experiment",
        (
            Column("experiment", "int32", "id", "number of the experiment"),
            _POINT,
            Column("count", "int64", "", "times it was passed"),
            Column("period", "float64", "ns", "between two passes on the clock of those that passed; NaN below two"),
            Column("real_period", "float64", "ns", "the same on the machine's clock"),
        ),
        recorded_by=_BY,
    ),
    Schema(
        "causal_profile",
        "predicted change of the time between two passes of a progress point, if a region were faster",
        (
            _REGION,
            _POINT,
            _SPEEDUP,
            Column("period", "float64", "ns", "median period of the experiments"),
            Column("change", "float64", "%", "change of the period, of that at 0 %; negative is faster"),
            Column("low", "float64", "%", "2.5th percentile of a bootstrap; NaN with fewer than three experiments"),
            Column("high", "float64", "%", "97.5th percentile"),
            Column("experiments", "int64", "", "valid experiments it comes from"),
        ),
        recorded_by=_BY,
    ),
)  # fmt: skip
