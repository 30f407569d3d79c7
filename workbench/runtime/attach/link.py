"""What an attachment is asked for and what it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from workbench.runtime.attach.process import Process
    from workbench.runtime.maps import Map

__all__ = ("HookKind", "Link", "Owner", "Program", "Request")

HookKind = Literal["uprobe", "uretprobe", "override", "replace", "usdt"]


class Owner(Protocol):
    """Detaches links."""

    def detach(self, links: Sequence[Link]) -> None:
        """Take them off in one stop; those that are detached already do not matter."""


class Program(Protocol):
    """What `workbench.runtime.jit.compile_program` gives: position-independent bytes and where to enter them."""

    @property
    def code(self) -> bytes:
        """The bytes."""

    @property
    def entry(self) -> int:
        """Offset of `uint64_t program(void *ctx, struct wb_run *run)` in them."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A byte of a file, as this process sees it: the same place in every process that maps the file.

    `semaphore` is the file offset of a 16-bit counter that is raised while attached (USDT); 0: none.
    """

    path: str
    offset: int
    semaphore: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One program for one site.

    Attributes
    ----------
    program : Program
    site : str, int or Spot
        See `modules.Modules.resolve`.
    kind : str
        uprobe (at any instruction), uretprobe, override (bpf_override_return skips the function), replace (the
        program's r0 is the function's result), usdt (``provider:name`` marks; see `usdt`).
    cookie : int
        What bpf_get_attach_cookie gives.
    maps : tuple of Map
        By the program's map index; they must be of the process's namespace.
    semaphore : int
        Address of a 16-bit counter that is raised while attached (USDT); 0: none.
    arguments : str
        A USDT mark's own description of its arguments (`workbench.frames.symbols.usdt.parse_operands`).
    holder : list of Link, optional
        Takes the links that `Process.refresh` makes of this request later.
    """

    program: Program
    site: str | int | Spot
    kind: HookKind = "uprobe"
    cookie: int = 0
    maps: tuple[Map, ...] = ()
    semaphore: int = 0
    arguments: str = ""
    holder: list[Link] | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True, eq=False)
class Link:
    """A program attached to a site of a process.

    Attributes
    ----------
    name : str
        The site as a person writes it: module:function+offset.
    address : int
        The first replaced byte.
    method : str
        How control gets to the program: ``jump``. Places where no jump fits are refused: a trap would end a thread
        that blocks SIGTRAP.
    siblings : tuple of Link
        The other places of a USDT mark.
    asked : Request or None
        The request before its site was looked up.
    origin : Link or None
        In the child of a fork: the parent's link that it inherited.
    claimed : bool
        An inherited link that was asked for in the child as well: it stays when the parent's goes.
    ended : tuple of int
        Counts (`counters.Counts`) of children that inherited it and have ended.
    """

    process: Process
    request: Request
    number: int
    name: str
    address: int
    record: int
    method: str = "jump"
    detached: bool = False
    siblings: tuple[Link, ...] = ()
    last: tuple[int, int, int] = (0, 0, 0)
    base: tuple[int, int, int] = (0, 0, 0)
    owner: Owner | None = None
    """What detaches it where that is not the process."""
    asked: Request | None = None
    origin: Link | None = None
    claimed: bool = False
    ended: tuple[int, int, int] = (0, 0, 0)

    @property
    def hits(self) -> int:
        """How often the program ran at this site, all threads together, and those of children that inherited it.

        Of a process that has ended: as it was last read, 20 times a second where a loaded object is attached.
        """
        return self.process.count(self, "hits")

    @property
    def missed(self) -> int:
        """Hits that ran no program: the thread was in another program, or its return could not be followed."""
        return self.process.count(self, "missed")

    @property
    def over_budget(self) -> int:
        """Hits whose program its run-time budget ended before it was done; they are in `hits`."""
        return self.process.count(self, "over_budget")

    def detach(self) -> None:
        """Take the program off its site; the last one of a site restores the bytes. Harmless twice."""
        (self.owner or self.process).detach([self, *self.siblings])
