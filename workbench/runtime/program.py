"""A loaded program, and its attachments as one link."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from workbench.errors import BadSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workbench.objects.linked import LinkedMap, LinkedProgram
    from workbench.runtime.attach import HookKind, Link, Process
    from workbench.runtime.inventory import Note
    from workbench.runtime.jit import ProbeCode
    from workbench.runtime.jit import Program as Code
    from workbench.runtime.maps import Map
    from workbench.runtime.verifier import Verdict

__all__ = ("Links", "Program")

_CALL, _HELPER, _OVERRIDE_RETURN = 0x85, 0, 58


class Program:
    """A loaded program.

    Attributes
    ----------
    name, section : str
    number : int
        Its id within the namespace.
    linked : LinkedProgram
        As linked, before lowering.
    verdict : Verdict
    code : workbench.runtime.jit.Program
        Compiled for this process, in both tiers; made by the first `test_run`.
    probe : workbench.runtime.jit.ProbeCode
        Compiled for probes: integer registers only, so that nothing else need be saved. Made by the first attachment,
        quick; optimised code is swapped in where it runs.
    probe_maps : tuple of Map
        What a probed process has to have open for it.
    """

    def __init__(
        self, linked: LinkedProgram, verdict: Verdict, shapes: Sequence[LinkedMap], maps: list[Map]
    ) -> None:
        self.name, self.section = linked.name, linked.section
        self.linked, self.verdict = linked, verdict
        self._shapes, self._maps = shapes, maps
        self.probe_maps: tuple[Map, ...] = tuple(maps)
        self.number = 0
        self.note: Note | None = None

    def __repr__(self) -> str:
        return f"<Program {self.name} ({self.section})>"

    @cached_property
    def _lowered(self) -> LinkedProgram:
        from workbench.runtime.lower import lower

        return lower(self.linked, self.verdict)

    @cached_property
    def code(self) -> Code:
        from workbench.runtime.jit import Program as Code

        made = Code(self._lowered, self._shapes, self._maps, self.verdict)
        made.changed = self._tell
        return made.start()

    @property
    def tiers(self) -> dict[int, str]:
        """Which code runs where: process id -> `quick` or `optimised`; this process has what `test_run` runs."""
        found = dict(self.probe.places) if "probe" in self.__dict__ else {}
        if "code" in self.__dict__:
            found[os.getpid()] = self.code.tier
        return found

    def wait(self, timeout: float | None = None) -> None:
        """Until optimised code runs wherever it is attached and in `test_run`; starts neither.

        Raises
        ------
        RunFailed
            It does not within `timeout` seconds.
        """
        if "probe" in self.__dict__:
            self.probe.wait(timeout)
        if "code" in self.__dict__:
            self.code.wait(timeout=timeout)

    def _tell(self) -> None:
        if self.note is not None:
            self.note.write(self.tiers)

    def close(self) -> None:
        """Unmap what was compiled for this process."""
        if "code" in self.__dict__:
            self.code.close()
        if "probe" in self.__dict__:
            self.probe.close()

    @cached_property
    def overrides(self) -> bool:
        """It calls `bpf_override_return`, so its places are functions that may be skipped."""
        from workbench.runtime.isa import decode

        return any(
            (one.opcode, one.src, one.imm) == (_CALL, _HELPER, _OVERRIDE_RETURN)
            for one in decode(self.linked.code)
        )

    def kind(self, *, on_return: bool, replace: bool) -> HookKind:
        """How it is attached to functions.

        Raises
        ------
        BadSpec
            It would skip or replace a function that has already run.
        """
        if not on_return:
            return "replace" if replace else "override" if self.overrides else "uprobe"
        if replace or self.overrides:
            raise BadSpec(
                f"{self.name} cannot skip a function at its return",
                "attach it at the entry: uprobe",
            )
        return "uretprobe"

    @cached_property
    def probe(self) -> ProbeCode:
        from workbench.runtime.jit import ProbeCode

        made = ProbeCode(self._lowered, self._shapes, self.verdict)
        made.changed = self._tell
        return made


class Links:
    """Several attachments of one program as one link.

    `process`: where `links` is the holder of requests that may be attached later.
    """

    def __init__(self, description: str, links: list[Link], process: Process | None = None) -> None:
        self.description, self.links = description, links
        self._process = process
        self.note: Path | None = None

    def __repr__(self) -> str:
        return f"<Links {self.description}{'' if self.attached else ' (detached)'}>"

    @property
    def attached(self) -> bool:
        """True until closed."""
        return bool(self.links) or self.waiting

    @property
    def waiting(self) -> bool:
        """Some of its places are not there yet: their library is not loaded."""
        return self._process is not None and self._process.waits_for(self.links)

    @property
    def hits(self) -> int:
        """How often the program ran."""
        return sum(link.hits for link in self.links)

    @property
    def missed(self) -> int:
        """Hits that ran no program: the thread was inside another one, or its return could not be followed."""
        return sum(link.missed for link in self.links)

    @property
    def over_budget(self) -> int:
        """Hits whose program its run-time budget ended before it was done; they are in `hits`."""
        return sum(link.over_budget for link in self.links)

    def close(self) -> None:
        """Detach; safe to call twice."""
        if self._process is not None:
            self._process.cancel(self.links)
        links, self.links = self.links, []
        if self.note is not None:
            self.note.unlink(missing_ok=True)
        if links:
            (links[0].owner or links[0].process).detach(links)

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
