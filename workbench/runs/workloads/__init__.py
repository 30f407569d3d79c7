"""Real programs to observe: what the notebooks, the demo and the tests record.

Each module is a program (`python -m workbench.runs.workloads.NAME`) that prints one JSON line when it is ready and
works until its time is over. To add one, write a module with `main()` and list it in `WORKLOADS`.
"""

from workbench.runs.workloads.start import WORKLOADS, Workload, workload

__all__ = ("WORKLOADS", "Workload", "workload")
