"""sched_ext schedulers under control, and the simulator that proves SchedCoz's rules.

What may be changed here: how a scheduler is loaded, scoped and observed, and the simulated machine around the rules;
the rules themselves are in bpf/schedcoz_rules.h and nowhere else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.sched.comparison import Variant as Variant
    from workbench.sched.comparison import compare as compare
    from workbench.sched.scheduler import Exit as Exit
    from workbench.sched.scheduler import Scheduler as Scheduler
    from workbench.sched.state import State as State
    from workbench.sched.state import read_state as read_state

__all__ = ("Exit", "Scheduler", "State", "Variant", "compare", "read_state")

_PLACES = {
    "Exit": "scheduler",
    "Scheduler": "scheduler",
    "State": "state",
    "Variant": "comparison",
    "compare": "comparison",
    "read_state": "state",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'workbench.sched' has no attribute {name!r}")
    return getattr(import_module(f"workbench.sched.{_PLACES[name]}"), name)
