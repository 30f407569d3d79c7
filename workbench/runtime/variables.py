"""Global variables of a loaded object as numpy views of the shared memory that programs use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from workbench.objects.linked import LinkedObject
    from workbench.runtime.maps import Map

__all__ = ("global_views",)


def global_views(linked: LinkedObject, maps: Sequence[Map]) -> dict[str, NDArray[Any]]:
    """Writable views of the variables in .data and .bss by name; `maps` are those of the object, in order."""
    btf, views = linked.btf, {}
    for name, variable in linked.variables.items():
        area = linked.maps[variable.map]
        if btf is None or area.read_only or not area.name.startswith((".data", ".bss")):
            continue
        dtype = btf.dtype(variable.type)
        base, shape = dtype.subdtype or (dtype, ())
        if variable.offset + dtype.itemsize > area.value_size:
            continue
        views[name] = np.ndarray(shape, base, maps[variable.map].bytes_of_first(), variable.offset)
    return views
