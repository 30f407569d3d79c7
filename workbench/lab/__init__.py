"""Disposable guests with a kernel of choice, for what the host's kernel cannot do: `workbench lab`, `wb.lab(...)`.

`lab(...)` is a running guest; `prepare()` gets its kernel and image, the only step that downloads. Modules that the
guest itself runs (`wire`, `transfer`, `agent*`) import nothing outside the standard library but `workbench.errors`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ("Result", "Vm", "lab", "prepare", "status")

_PLACES = {"lab": "vm", "Vm": "vm", "Result": "result", "prepare": "prepare", "status": "prepare"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'workbench.lab' has no attribute {name!r}")
    return getattr(import_module(f"workbench.lab.{_PLACES[name]}"), name)


class _Room(ModuleType):
    """This folder, which can be called: `wb.lab` names both it and the function, whichever was imported first."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return import_module("workbench.lab.vm").lab(*arguments, **options)


sys.modules[__name__].__class__ = _Room
