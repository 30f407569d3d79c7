"""Causal profiling: what a program would gain if a part of it were faster, by experiments in the kernel's scheduler.

May be changed: how regions and progress points are named and found, how experiments are chosen, how long they last, and
what is made of them. How an experiment is carried out is `workbench.sched` and bpf/schedcoz_rules.h.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """This folder, which can be called: `wb.causal` names both it and the function, whichever was imported first."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return import_module("workbench.causal.api").causal(*arguments, **options)


sys.modules[__name__].__class__ = _Room
