"""Frames of causal profiling: the experiments, what each gave, and what they predict."""

from __future__ import annotations

from workbench.frames.declaration import Column, Schema

__all__ = ("CAUSAL_SCHEMAS",)

_BY = "workbench causal"
_REGION = Column("region", "str", "", "what was sped up, as it was asked for")
_SPEEDUP = Column(
    "speedup", "float64", "", "virtual speed-up of the region: 0.25 is 25 % less time"
)
_POINT = Column("point", "str", "", "progress point, as it was asked for; of a latency BEGIN,END")
_KIND = Column(
    "kind", "str", "", "throughput, or latency: the period is then the time from begin to end"
)

CAUSAL_SCHEMAS = (
    Schema(
        "experiments",
        "experiments of causal profiling, in the order in which they were made",
        (
            Column("number", "int32", "id", "counts from 1"),
            _REGION,
            _SPEEDUP,
            Column("start", "int64", "ns", "when it began, on CLOCK_MONOTONIC"),
            Column("duration", "int64", "ns", "how long it took, with the time in which it settled"),
            Column("settled", "int64", "ns", "of that, time before progress was counted"),
            Column("valid", "bool", "", "it counts"),
            Column("reason", "str", "", "why it does not count, else empty"),
            Column("samples", "int64", "", "samples of tasks in scope"),
            Column("hits", "int64", "", "of these, in the region"),
            Column("weighted", "int64", "ns", "time that the hits stand for"),
            Column("payments", "int64", "", "times a task was withheld"),
            Column("paid", "int64", "ns", "time in which tasks were withheld"),
            Column("growth", "int64", "ns", "virtual time that the speed-up took off: the slowest clock's delay"),
            Column("lost", "int64", "", "samples that were due and did not come; the others stand for them"),
        ),
        recorded_by=_BY,
    ),
    Schema(
        "progress",
        "how often each progress point was passed in each experiment",
        (
            Column("experiment", "int32", "id", "number of the experiment"),
            _POINT,
            _KIND,
            Column("count", "int64", "", "times it was passed; of a latency, arrivals"),
            Column("period", "float64", "ns", "between two passes on the clock of those that passed; NaN below two"),
            Column("real_period", "float64", "ns", "the same on the machine's clock; NaN of a latency"),
            Column("departures", "int64", "", "of a latency: times that its end was passed"),
            Column("inside", "float64", "", "of a latency: mean number between begin and end; else NaN"),
        ),
        recorded_by=_BY,
    ),
    Schema(
        "causal_profile",
        "predicted change of the time between two passes of a progress point, if a region were faster",
        (
            _REGION,
            _POINT,
            _KIND,
            _SPEEDUP,
            Column("period", "float64", "ns", "median period of the experiments"),
            Column("change", "float64", "%", "change of the period, of that at 0 %; negative is faster"),
            Column("low", "float64", "%", "2.5th percentile of a bootstrap; NaN with fewer than three experiments"),
            Column("high", "float64", "%", "97.5th percentile"),
            Column("experiments", "int64", "", "valid experiments it comes from"),
            Column("phase", "float64", "", "how much more the region is at work in the run than in its experiments"),
            Column("corrected", "float64", "%", "change x phase: of the whole run; NaN where that is not known"),
        ),
        recorded_by=_BY,
    ),
    Schema(
        "causal_samples",
        "where the samples of causal profiling were, from the first to the last experiment",
        (
            Column("location", "str", "", "a region that was asked for, else a function; empty: out of scope"),
            Column("count", "int64", "", "samples"),
            Column("weight", "int64", "ns", "time that they stand for"),
            Column("lost", "int64", "", "samples that were due and did not come, by that time"),
            Column("plain", "int64", "", "samples in experiments at 0 %"),
        ),
        recorded_by=_BY,
    ),
)  # fmt: skip
