"""A research workbench for eBPF: record what a running process and its kernel do, as typed frames.

Nothing heavy is imported until it is used: `import workbench` loads no pandas, no shared library and touches no
kernel interface. Public names are listed in `_PUBLIC` with the module that holds them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "WorkbenchError": "workbench.errors",
    "schema": "workbench.frames.schema",
    "load": "workbench.frames.recording",
    "export": "workbench.frames.export",
    "compile": "workbench.objects.model",
    "open": "workbench.objects.model",
    "record": "workbench.collectors.api",
    "watch": "workbench.collectors.api",
    "rwatch": "workbench.collectors.api",
    "calibrate": "workbench.collectors.calibration",
    "doctor": "workbench.host",
    "lab": "workbench.lab",
    "causal": "workbench.causal",
    "sched": "workbench.sched",
    "claim": "workbench.runs.claims",
    "record_or_load": "workbench.runs.source",
    "output_folder": "workbench.runs.source",
    "workload": "workbench.runs.workloads",
    "compare_backends": "workbench.runs.backends",
    "interactive_flamegraph": "workbench.notebook.html",
    "interactive_timeline": "workbench.notebook.html",
    "interactive_heatmap": "workbench.notebook.html",
    "interactive_latency": "workbench.notebook.html",
    "report": "workbench.notebook.report",
    "plot": "workbench.notebook.plot",
    "updates": "workbench.notebook.live",
}

if TYPE_CHECKING:
    from workbench.errors import WorkbenchError as WorkbenchError
    from workbench.frames.schema import schema as schema


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    module = import_module(_PUBLIC[name])
    value = module if name in ("plot", "lab", "sched", "causal") else getattr(module, name)
    globals()[name] = value
    if name in ("record", "watch", "rwatch"):
        _show_recorders()
    return value


def _show_recorders() -> None:
    """In a notebook or IPython, recorders show themselves; with or without `%load_ext workbench`."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        import_module("workbench.notebook.hook").install(shell)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext workbench`: register the magics."""
    import_module("workbench.notebook.magics").register(shell)
