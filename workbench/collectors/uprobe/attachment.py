"""Programs on sites: one link per file and process where the kernel can, one perf event per site where not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.backend import load
from workbench.errors import MissingCapability, NotPermitted, TargetGone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from workbench.collectors.base import Target
    from workbench.collectors.uprobe.plan import Site
    from workbench.kernel.links import Link
    from workbench.kernel.loaded import Loaded
    from workbench.objects.model import BpfObject

__all__ = ("Attachment",)

_MOST_PROCESSES = 256


class Attachment:
    """The loaded programs of one collector and their links.

    Parameters
    ----------
    target : Target
        Says which backend runs the programs.
    obj : BpfObject
    constants, map_sizes : dict
        For `load`.
    sites : sequence of Site
        Cookie i belongs to site i.
    entry, leave : str or None
        Programs for the first instruction and for the return.
    how : str
        auto, multi or events.
    """

    def __init__(
        self,
        target: Target,
        obj: BpfObject,
        constants: Mapping[str, int | bool],
        map_sizes: Mapping[str, int],
        sites: Sequence[Site],
        entry: str | None,
        leave: str | None,
        how: str,
    ) -> None:
        self._target = target
        self._obj, self._constants, self._sizes = obj, dict(constants), dict(map_sizes)
        self._sites = sites
        self._programs = [
            (name, on_return) for name, on_return in ((leave, True), (entry, False)) if name
        ]
        self._extra = ["follow_fork"] if constants.get("limit_scope") else []
        self._how = "multi" if target.backend == "userspace" else how
        self.multi = self._how != "events"
        self.refused: dict[int, str] = {}
        self._links: dict[int | None, list[Link]] = {}
        self.loaded = self._load()

    def _load(self) -> Loaded:
        names = [name for name, _ in self._programs]
        types = {} if self.multi else dict.fromkeys(names, 0)
        loaded: Loaded = load(
            self._target,
            self._obj,
            constants=self._constants,
            map_sizes=self._sizes,
            programs=[*names, *self._extra],
            attach_types=types,
        )
        return loaded

    def attach(self, pids: Iterable[int | None]) -> bool:
        """Attach all sites for each process (None: for every process).

        Returns
        -------
        bool
            The programs were loaded anew, without uprobe_multi: maps and rings are other ones now.
        """
        pids = list(pids)
        for pid in pids:
            self.attach_one(pid)
        if len(self.refused) < len(self._sites):
            self._forget_returns()
            return False
        if not self.multi or self._how == "multi":
            reasons = "; ".join(sorted(set(self.refused.values()))[:3])
            who = "user space" if self._target.backend == "userspace" else "the kernel"
            raise MissingCapability(
                f"{who} takes a probe at none of {len(self._sites)} places: {reasons}",
                "record with --backend kernel, which probes by a trap"
                if self._target.backend == "userspace"
                else "see row `uprobe` of `workbench doctor`",
            )
        # No place was taken: this kernel has no uprobe_multi (Linux < 6.6).
        self.close()
        self.multi = False
        self.refused.clear()
        self.loaded = self._load()
        for pid in pids:
            self.attach_one(pid)
        self._forget_returns()
        return True

    def _forget_returns(self) -> None:
        """What returned before the entry probes were there too is not part of the recording, so it is no loss."""
        self.loaded.globals["lost_no_entry"][()] = 0

    def attach_one(self, pid: int | None) -> None:
        """Attach all sites for one process.

        Raises
        ------
        TargetGone, NotPermitted
        """
        if self._target.backend == "userspace" and self._links.get(pid):
            return  # the runtime follows what it has entered
        files: dict[str, list[int]] = {}
        for i, site in enumerate(self._sites):
            if i not in self.refused:
                files.setdefault(site.place.path, []).append(i)
        links = self._links.setdefault(pid, [])
        try:
            # Returns first: a call that enters between the two links then gives a return without entry, which is
            # known and counted, and not an entry whose return never comes.
            for program, on_return in self._programs:
                for path, numbers in files.items():
                    self._attach(program, path, numbers, pid, on_return, links)
        except BaseException:
            self.release(pid)
            raise

    def _attach(
        self,
        program: str,
        path: str,
        numbers: list[int],
        pid: int | None,
        on_return: bool,
        links: list[Link],
    ) -> None:
        numbers = [i for i in numbers if i not in self.refused]
        if not numbers:
            return
        sites = [self._sites[i] for i in numbers]
        if self._target.backend == "userspace":
            self._enter(program, path, numbers, pid, on_return, links)
            return
        try:
            if self.multi:
                semaphores = [site.semaphore for site in sites]
                link = self.loaded.attach_uprobes(
                    program,
                    path,
                    np.array([site.place.file_offset for site in sites], np.uint64),
                    cookies=np.array(numbers, np.uint64),
                    semaphores=np.array(semaphores, np.uint64) if any(semaphores) else None,
                    pid=pid,
                    on_return=on_return,
                )
                links.append(link)
                return
            if len(numbers) == 1:
                link = self.loaded.attach_uprobe_event(
                    program,
                    path,
                    sites[0].place.file_offset,
                    cookie=numbers[0],
                    semaphore=sites[0].semaphore,
                    pid=pid,
                    on_return=on_return,
                )
                links.append(link)
                return
        except (TargetGone, NotPermitted):
            raise
        except MissingCapability as error:
            if pid is not None and not Path(f"/proc/{pid}").exists():
                raise TargetGone(f"process {pid} exited while it was being attached") from error
            if len(numbers) == 1:
                self.refused[numbers[0]] = error.message.rpartition(": ")[2]
                return
            # One bad place fails the whole link: halve until it is alone.
            if self._lacks_multi(program, path, numbers, pid):
                self.refused.update(dict.fromkeys(numbers, error.message.rpartition(": ")[2]))
                return
        middle = len(numbers) // 2
        self._attach(program, path, numbers[:middle], pid, on_return, links)
        self._attach(program, path, numbers[middle:], pid, on_return, links)

    def _enter(
        self,
        program: str,
        path: str,
        numbers: list[int],
        pid: int | None,
        on_return: bool,
        links: list[Link],
    ) -> None:
        """All places of a file in user space, those that cannot be probed left out with the reason."""
        sites = [self._sites[i] for i in numbers]
        failed: dict[int, str] = {}
        loaded: Any = self.loaded
        links.append(
            loaded.attach_uprobes(
                program,
                path,
                [site.place.file_offset for site in sites],
                cookies=numbers,
                semaphores=[site.semaphore for site in sites],
                pid=pid,
                on_return=on_return,
                refused=failed,
                wait=pid
                != self._target.pid,  # a child may run another program, which loads its libraries yet
            )
        )
        self.refused.update((numbers[i], why) for i, why in failed.items())

    def _lacks_multi(self, program: str, path: str, numbers: list[int], pid: int | None) -> bool:
        """True if not even the first and the last place go alone, which speaks against the kernel, not the places."""
        if not self.multi or self._links.get(pid):
            return False
        for i in (numbers[0], numbers[len(numbers) // 2], numbers[-1]):
            try:
                offsets = [self._sites[i].place.file_offset]
                self.loaded.attach_uprobes(program, path, offsets, cookies=[i], pid=pid).close()
            except MissingCapability:
                continue
            return False
        return True

    def follow(self) -> None:
        """Let the fork tracepoint add children to `targets`."""
        self.loaded.attach_raw_tracepoint("follow_fork", "sched_process_fork")

    def prune(self) -> None:
        """Close the links of processes that are gone, once there are many: each holds descriptors."""
        if len(self._links) < _MOST_PROCESSES:
            return
        for pid in [p for p in self._links if p is not None and not Path(f"/proc/{p}").exists()]:
            self.release(pid)

    def release(self, pid: int | None) -> None:
        """Close the links of one process."""
        for link in reversed(self._links.pop(pid, [])):
            link.close()

    def detach(self) -> None:
        """Close all links; entries first, so that no entry waits for a return that is not probed any more."""
        if self._links:
            unmatched = self.loaded.globals["lost_no_entry"]
            before = int(unmatched[()])
            for pid in list(self._links):
                self.release(pid)
            unmatched[()] = before  # calls that began when the entry probes were gone are no losses
        self.loaded.detach()

    def close(self) -> None:
        """Detach and unload."""
        self.detach()
        self.loaded.close()
