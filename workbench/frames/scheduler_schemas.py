"""Frames about schedulers: what a workload saw under each, and what the scheduler counted."""

from __future__ import annotations

from workbench.frames.declaration import Column, Schema

__all__ = ("SCHEDULER_SCHEMAS",)

_SCHEDULER = Column("scheduler", "str", "", "label of the scheduler that was compared")

SCHEDULER_SCHEMAS = (
    Schema(
        "scheduler_tasks",
        "the processes of the workload under each scheduler",
        (
            _SCHEDULER,
            Column("task", "str", "", "name of the process"),
            Column(
                "kind", "str", "", "computing: a fixed amount of work; sleeping: wakes up often"
            ),
            Column("begin", "int64", "ns", "when it first ran, after the start of all"),
            Column("end", "int64", "ns", "when it was done, after the start of all"),
            Column("cpu", "int64", "ns", "CPU time that it took"),
            Column("exit", "str", "", "why the scheduler ended; empty for the kernel's own"),
        ),
        recorded_by="wb.sched.compare",
    ),
    Schema(
        "scheduler_waits",
        "wake-ups of the sleeping process",
        (
            _SCHEDULER,
            Column("number", "int64", "", "of the wake-up, from 0"),
            Column("wait", "int64", "ns", "how long after its time it ran"),
        ),
        recorded_by="wb.sched.compare",
    ),
    Schema(
        "scheduler_counters",
        "counters of each scheduler, read while the workload ran",
        (
            _SCHEDULER,
            Column("time", "int64", "ns", "when they were read, on CLOCK_MONOTONIC"),
            Column("counter", "str", "", "name of the variable or of the kernel's event"),
            Column("value", "int64", "", "what it held"),
            Column("source", "str", "", "scheduler or kernel"),
        ),
        recorded_by="wb.sched.compare",
    ),
)
