"""All demonstrations by name."""

from __future__ import annotations

import difflib

from workbench.causal.demonstrations.memcached import MEMCACHED
from workbench.causal.demonstrations.model import Demonstration
from workbench.causal.demonstrations.nginx import NGINX, NGINX_APPLICATION
from workbench.causal.demonstrations.redis import REDIS
from workbench.causal.demonstrations.sqlite import SQLITE
from workbench.errors import BadSpec

__all__ = ("DEMONSTRATIONS", "demonstration")

DEMONSTRATIONS = {one.name: one for one in (REDIS, NGINX, NGINX_APPLICATION, SQLITE, MEMCACHED)}


def demonstration(name: str) -> Demonstration:
    """The demonstration of this name.

    Raises
    ------
    BadSpec
        There is none.
    """
    if name not in DEMONSTRATIONS:
        near = difflib.get_close_matches(name, DEMONSTRATIONS, 1)
        raise BadSpec(
            f"there is no demonstration {name!r}",
            (f"did you mean {near[0]!r}? " if near else "")
            + f"there are: {', '.join(DEMONSTRATIONS)}",
        )
    return DEMONSTRATIONS[name]
