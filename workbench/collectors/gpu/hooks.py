"""The loaded programs of the gpu collector and their links: one link per file and process where the kernel can."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.backend import load
from workbench.collectors.gpu.libraries import api_sites, file_key
from workbench.collectors.gpu.signature import LAYERS, all_apis
from workbench.errors import MissingCapability, TargetGone
from workbench.objects.build import built_object
from workbench.objects.model import builtin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workbench.collectors.base import Target
    from workbench.collectors.gpu.libraries import Site
    from workbench.collectors.modules import Module
    from workbench.kernel.links import Link
    from workbench.kernel.loaded import Loaded

__all__ = ("Hooks",)

_MOST_PROCESSES = 256
_ENTRY, _NAME_ENTRY, _RETURN = "enter", "enter_name", "leave"


def _close(links: list[Link]) -> None:
    """Close links, entries before returns."""
    for link in reversed(links):
        link.close()


class Hooks:
    """Programs, table of functions, links.

    Parameters
    ----------
    target : Target
        Says which backend runs the programs.
    constants, map_sizes : dict
        For `load`.
    layers : sequence of str
        Layers whose functions are hooked.
    how : str
        ``multi`` one link for all functions of a file (Linux >= 6.6), ``events`` two perf events for each, ``auto``.
        The kernel waits a grace period, tens of milliseconds, for each event that is closed.

    Attributes
    ----------
    libraries : dict of str to dict of str to int
        Files with API functions that a process in scope has mapped: the number of functions of each layer.
    processes : int
        How many processes were hooked (1 for the whole machine).
    backend : str
        Where the programs run.
    refused : list of str
        Functions that the kernel would not let us probe, and why.
    """

    def __init__(
        self,
        target: Target,
        constants: Mapping[str, int | bool],
        map_sizes: Mapping[str, int],
        layers: Sequence[str],
        how: str = "auto",
    ) -> None:
        self.apis, self.backend = all_apis(), target.backend
        self._target = target
        self._layers = layers
        self.libraries: dict[str, dict[str, int]] = {}
        self.refused: list[str] = []
        self._sites: dict[tuple[int, int], list[Site]] = {}
        self.processes = 0
        self._links: dict[int | None, dict[tuple[int, int], list[Link]]] = {}
        self.multi = how != "events"
        sizes = {"apis": len(self.apis), **map_sizes}
        self.loaded: Any = self._load(constants, sizes)
        if how == "auto" and not self._multi_works():
            self.loaded.close()
            self.multi = False
            self.loaded = self._load(constants, sizes)

    def _load(self, constants: Mapping[str, int | bool], sizes: Mapping[str, int]) -> Loaded:
        programs = (_ENTRY, _NAME_ENTRY, _RETURN) if self.multi else (_ENTRY, _RETURN)
        loaded: Loaded = load(
            self._target,
            builtin("gpu"),
            constants=constants,
            map_sizes=sizes,
            programs=programs,
            attach_types={} if self.multi else dict.fromkeys(programs, 0),
        )
        try:
            table = loaded.maps["apis"]
            packed = b"".join(api.pack() for api in self.apis)
            keys = np.arange(len(self.apis), dtype=np.uint32)
            table.update_many(keys, np.frombuffer(packed, table.value_dtype))
            # Entries and returns are attached one after the other, and calls between would be halves.
            loaded.globals["paused"][()] = True
        except BaseException:
            loaded.close()
            raise
        return loaded

    def _multi_works(self) -> bool:
        """Try it on a file that nobody executes: this touches no process."""
        if self._target.backend == "userspace":
            return True
        try:
            self.loaded.attach_uprobes("enter", str(built_object("gpu")), [64]).close()
        except MissingCapability:
            return False
        return True

    def sites(self, module: Module) -> list[Site]:
        """API functions of a file; empty for most files."""
        key = file_key(module.place)
        if key is None:
            return []
        if key not in self._sites:
            self._sites[key], refused = api_sites(module, self.apis, self._layers)
            self.refused += refused
        return self._sites[key]

    def attach(self, module: Module, pid: int | None, *, ahead: bool = False) -> None:
        """Hook a file for a process (None: for every process), if it holds API functions and is not hooked yet.

        `ahead` says that the process has not mapped it.

        Raises
        ------
        TargetGone, NotPermitted, MissingCapability
        """
        sites, key = self.sites(module), file_key(module.place)
        hooked = self._links.setdefault(pid, {})
        if not sites or key is None:
            return
        if not ahead:
            layers = [self.apis[site.cookie & 0xFFFF].layer for site in sites]
            self.libraries[module.path] = {layer: layers.count(layer) for layer in LAYERS if layer in layers}
        if key in hooked:
            if self._target.backend == "userspace" and not ahead:
                self.loaded.refresh()  # it was waited for
            return
        links: list[Link] = []
        try:
            # Returns first: a call that enters between the links gives a return without entry, which is counted, and
            # not an entry whose return never comes.
            self._attach(_RETURN, True, module.place, sites, pid, links)
            names = [site for site in sites if self.multi and self.apis[site.cookie & 0xFFFF].kind == "name"]
            self._attach(_ENTRY, False, module.place, [site for site in sites if site not in names], pid, links)
            self._attach(_NAME_ENTRY, False, module.place, names, pid, links)
        except MissingCapability as error:
            _close(links)
            if pid is not None and not Path(f"/proc/{pid}").exists():
                raise TargetGone(f"process {pid} exited while it was being attached") from error
            raise
        except BaseException:
            _close(links)
            raise
        self.processes += not hooked
        hooked[key] = links

    def _attach(
        self, program: str, on_return: bool, place: str, sites: list[Site], pid: int | None, links: list[Link]
    ) -> None:
        if not sites:
            return
        if self._target.backend == "userspace":
            failed: dict[int, str] = {}
            link = self.loaded.attach_uprobes(
                program, place, [site.offset for site in sites], cookies=[site.cookie for site in sites],
                pid=pid, on_return=on_return, refused=failed, wait=True,
            )  # fmt: skip
            links.append(link)
            names = {i: self.apis[sites[i].cookie & 0xFFFF].name for i in failed}
            self.refused += [f"{names[i]} of {place}: {why}" for i, why in failed.items()]
            return
        if self.multi:
            offsets = np.array([site.offset for site in sites], np.uint64)
            cookies = np.array([site.cookie for site in sites], np.uint64)
            link = self.loaded.attach_uprobes(
                program, place, offsets, cookies=cookies, pid=pid, on_return=on_return
            )
            links.append(link)
            return
        for site in sites:
            link = self.loaded.attach_uprobe_event(
                program, place, site.offset, cookie=site.cookie, pid=pid, on_return=on_return
            )
            links.append(link)

    def start(self) -> None:
        """Record from now on, or from when the recording begins."""
        self._target.window.join(self.loaded)

    def prune(self) -> None:
        """Close the links of processes that are gone, once there are many: each holds descriptors."""
        if len(self._links) > _MOST_PROCESSES:
            for pid in [p for p in self._links if p is not None and not Path(f"/proc/{p}").exists()]:
                self._release(pid)

    def _release(self, pid: int | None) -> None:
        for links in self._links.pop(pid, {}).values():
            _close(links)

    def detach(self) -> None:
        """Close all links."""
        for pid in list(self._links):
            self._release(pid)
        self.loaded.detach()

    def close(self) -> None:
        """Detach and unload."""
        self.detach()
        self.loaded.close()
