"""Maps in shared memory: namespaces, the threads that use them, every map type's face in Python.

The operations are C (native/runtime: maps.c, space.c and a file a type); here is their life and their numpy view.
A new type is a row in maps.c; a face of its own is a subclass of Map registered in `FACES`.
"""

from __future__ import annotations

from workbench.runtime.maps import kinds as kinds
from workbench.runtime.maps import nested as nested
from workbench.runtime.maps import rings as rings
from workbench.runtime.maps.map import FACES, Map
from workbench.runtime.maps.participants import current_run
from workbench.runtime.maps.space import Space, SpaceInfo, collect, spaces

__all__ = ("FACES", "Map", "Space", "SpaceInfo", "collect", "current_run", "spaces")
