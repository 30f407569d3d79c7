"""What the sub-verbs that take an object have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.objects.model import BpfObject

__all__ = ("opened",)


def opened(name: str) -> BpfObject:
    """The object of a file: compiled first when it is C, one of the project's own when it is no file but a name."""
    import workbench as wb
    from workbench.objects.build import built_object
    from workbench.objects.model import builtin

    path = Path(name)
    if path.suffix == ".c":
        return wb.compile(path)
    if "/" not in name and not path.exists() and built_object(name).exists():
        return builtin(name)
    return wb.open(path)
