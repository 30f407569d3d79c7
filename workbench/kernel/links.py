"""Links: an attached program that always detaches, by `with`, by `close()` and when the process dies."""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

__all__ = ("Link",)


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """A forked child has copies of the descriptors: it closes them, or a probe would live as long as the child."""
    for link in list(_links):
        link.close()


os.register_at_fork(after_in_child=_leave_to_parent)


class Link:
    """One attachment, held by file descriptors that nobody else has: closing them detaches.

    Parameters
    ----------
    description : str
        For messages.
    fds : iterable of int
        Descriptors, closed in the given order (the BPF link before the perf event it sits on).
    """

    def __init__(self, description: str, fds: Iterable[int]) -> None:
        self.description = description
        self._fds = list(fds)
        _links.add(self)

    def __repr__(self) -> str:
        return f"<Link {self.description}{'' if self._fds else ' (detached)'}>"

    @property
    def attached(self) -> bool:
        """True until closed."""
        return bool(self._fds)

    @property
    def hits(self) -> int:
        """The userspace backend's alone.

        Raises
        ------
        MissingCapability
            Always: the kernel counts the runs of a program, for all its links together and only while
            kernel.bpf_stats_enabled is on.
        """
        raise MissingCapability(
            f"the kernel does not count the hits of a link ({self.description})",
            "let the program count in a map or a global variable, or use backend='userspace'",
        )

    def take(self) -> list[int]:
        """Give the descriptors away: this link no longer detaches anything."""
        fds, self._fds = self._fds, []
        return fds

    def close(self) -> None:
        """Detach; safe to call twice."""
        fds, self._fds = self._fds, []
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
