"""Frames of predicted gains beside their truth."""

from __future__ import annotations

from workbench.frames.declaration import Column, Schema

__all__ = ("GAIN_SCHEMAS",)

GAIN_SCHEMAS = (
    Schema(
        "causal_gains",
        "predicted gains beside the truth: what really shortening the region gives",
        (
            Column("origin", "str", "", "who predicted: scheduler, userspace (runtime) or simulator"),
            Column("run", "int32", "id", "boot of the guest; of the simulator, seed of the program"),
            Column("accepted", "bool", "", "the boot's own check lets its numbers be used"),
            Column("cpus", "int32", "", "CPUs of the machine"),
            Column("label", "str", "", "program: a shape of the workload, with what makes it a different one"),
            Column("region", "str", "", "what was sped up"),
            Column("null", "bool", "", "nobody waits for the region: its gain should be nothing"),
            Column("speedup", "float64", "", "of the region: 0.25 is 25 % less time"),
            Column("predicted", "float64", "%", "change of the period when it is virtually faster; negative: gain"),
            Column("true", "float64", "%", "the same when its work is really less, in the same process"),
            Column("uncertainty", "float64", "points", "standard error of predicted minus true; NaN if not known"),
            Column("period", "float64", "ns", "of a round at 0 %; NaN of the simulator"),
            Column("overhead", "float64", "%", "by which that is longer than under the kernel's scheduler; or NaN"),
        ),
        recorded_by="workbench.runs.known_gains",
    ),
    Schema(
        "causal_boots",
        "what each boot of a guest found out about itself before anything was predicted in it",
        (
            Column("boot", "int32", "id", "number of the boot"),
            Column("accepted", "bool", "", "its numbers may be used"),
            Column("reason", "str", "", "why they may not, else empty"),
            Column("stop_cost", "float64", "ns", "what stopping a task costs beyond what is credited by itself"),
            Column("stop_cost_error", "float64", "ns", "its standard error"),
            Column("predicted", "float64", "%", "predicted gain of a region whose true one is measured beside it"),
            Column("true", "float64", "%", "that"),
            Column("null_predicted", "float64", "%", "predicted gain of a region that nobody waits for"),
            Column("null_true", "float64", "%", "what really shortening that gives"),
            Column("period_difference", "float64", "%", "by which a round at 0 % is longer than under the kernel's"),
            Column("uncertainty", "float64", "points", "standard error of a prediction"),
            Column("noise", "float64", "points", "standard deviation of an experiment"),
            Column("drift", "float64", "points", "of the machine's speed from one experiment to the next"),
        ),
        recorded_by="workbench.runs.known_gains",
    ),
)  # fmt: skip
