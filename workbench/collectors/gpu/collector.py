"""Calls of GPU APIs on the host side: frames `gpu_calls`, `gpu_counts` and `gpu_memory`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.base import Counters
from workbench.collectors.cost import RunCost
from workbench.collectors.gpu.hooks import Hooks
from workbench.collectors.gpu.kernels import KernelNames
from workbench.collectors.gpu.libraries import LIBRARIES, candidates
from workbench.collectors.gpu.rows import Rows
from workbench.collectors.gpu.signature import LAYERS
from workbench.collectors.gpu.summary import append_counts, append_summary
from workbench.collectors.modules import Module, Modules
from workbench.collectors.stacks import COPY_BYTES, StackReader
from workbench.errors import BadSpec, NotPermitted, TargetGone, UnknownSymbol, WorkbenchError
from workbench.kernel.maps import possible_cpus
from workbench.kernel.ring import ColumnReader, RecordReader, Ring

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.collectors.base import Sink, Target
    from workbench.collectors.spec import Spec

__all__ = ("GpuCollector",)

_SCRATCH_SLOTS = 4  # SLOTS of bpf/gpu.bpf.c


class GpuCollector:
    """Records launches, copies, allocations, frees and waits of GPU APIs.

    Parameters
    ----------
    layers : sequence of str
        Of ``runtime`` (CUDA runtime), ``driver`` (CUDA driver) and ``opencl``. A runtime call makes driver calls
        inside: never add bytes of two layers, or leave out rows whose `nested` is true.
    stacks : {"no", "yes", "fp"}
        Stack of the caller; ``fp`` follows frame pointers only.
    count : bool
        Count in the kernel only: frame `gpu_counts`, no row per call.
    library : str
        Path of a file to hook as well, under whatever name, before it is mapped.
    wait : bool
        Where no GPU library is mapped yet, wait for one (a command or process); else that is an error.
    how : str
        How probes are attached: ``auto``, ``multi`` or ``events``.
    """

    SUMMARY = "GPU API calls: CUDA runtime, CUDA driver, OpenCL (frame gpu_calls)"
    USAGE = (
        "gpu[:LAYER[+LAYER...]][,stacks=no|yes|fp][,count=yes|no][,library=PATH][,wait=yes|no]"
        "[,attach=auto|multi|events] with LAYER runtime, driver or opencl"
    )

    name = "gpu"

    def __init__(
        self,
        layers: tuple[str, ...] = LAYERS,
        *,
        stacks: str = "no",
        count: bool = False,
        library: str = "",
        wait: bool = True,
        how: str = "auto",
    ) -> None:
        self.layers, self.stacks, self.count = layers, stacks, count
        self.library, self.wait, self.how = library, wait, how
        self.counters = Counters()
        self._hooks: Hooks | None = None
        self._rings: list[Ring] = []
        self._cost: RunCost | None = None
        self._notes: dict[str, Any] = {}

    @classmethod
    def from_spec(cls, spec: Spec) -> GpuCollector:
        asked = spec.argument.split("+") if spec.argument else list(LAYERS)
        for layer in asked:
            if layer not in LAYERS:
                raise BadSpec(
                    f"{spec}: there is no layer {layer!r}",
                    f"layers: {', '.join(LAYERS)}; several with +, all by default",
                )
        made = cls(
            tuple(layer for layer in LAYERS if layer in asked),
            stacks=spec.choice("stacks", "no", ("no", "yes", "fp")),
            count=spec.flag("count"),
            library=spec.text("library"),
            wait=spec.flag("wait", True),
            how=spec.choice("attach", "auto", ("auto", "multi", "events")),
        )
        spec.done()
        if made.count and made.stacks != "no":
            raise BadSpec(f"{spec}: counting takes no stacks", "leave out count=yes, or stacks=")
        return made

    @property
    def frames(self) -> tuple[str, ...]:
        return (*(() if self.count else ("gpu_calls",)), "gpu_counts", "gpu_memory")

    def attach(self, target: Target, sink: Sink) -> None:
        self._target, self._sink = target, sink
        self._hooks = Hooks(
            target,
            {
                "want_events": not self.count,
                "want_stacks": self.stacks != "no",
                "kernel_stacks": False,
                "copy_bytes": COPY_BYTES if self.stacks == "yes" else 0,
                "wake_bytes": 1 << 20,
            },
            {
                "scratches": possible_cpus() * _SCRATCH_SLOTS if self.stacks != "no" else 1,
                "names": 1 << 20,
                **({"calls": 4096} if self.count else {}),
            },
            self.layers,
            self.how,
        )
        try:
            self._open(target)
            if target.machine:
                self._hook_machine()
            else:
                for pid in sorted(target.pids):
                    with contextlib.suppress(*(() if pid == target.pid else (TargetGone,))):
                        self._hook_process(pid)
            if not self._hooks.libraries and (target.machine or not self.wait):
                raise self._nothing_found()
            self._hooks.start()
        except BaseException:
            self._close()
            raise

    def _open(self, target: Target) -> None:
        assert self._hooks is not None
        loaded = self._hooks.loaded
        self._rings = [loaded.ring(name) for name in ("calls", "names")]
        calls, names = self._rings
        self._dtype = loaded.object.record_dtype("calls")
        self._stacks: StackReader | None = None
        kernel = target.backend == "kernel"
        self._cost = RunCost(target.window, loaded) if kernel and self.stacks != "no" else None
        self._columns: ColumnReader | None = None
        if self.stacks == "no":
            self._columns = ColumnReader(calls, self._dtype)
        else:
            unwinder = target.unwinder() if self.stacks == "yes" else None
            self._stacks = StackReader(self._sink, unwinder)
            self._records = RecordReader(calls, buffer_bytes=16 << 20)
        self._names = ColumnReader(names, loaded.object.record_dtype("names"), 1024)
        self._kernels = KernelNames()
        self._rows = Rows(self._hooks.apis, self._kernels)

    # Which files --------------------------------------------------------------------------------------------------

    def _named_library(self, modules: Modules) -> Module:
        module = modules.find_module(str(Path(self.library).absolute()) if "/" in self.library else self.library)
        assert self._hooks is not None
        if not self._hooks.sites(module):
            raise UnknownSymbol(
                f"{module.path} has none of the API functions of {', '.join(self.layers)}",
                "a stripped static CUDA runtime keeps no names: record the driver layer (gpu:driver), whose library "
                "exports them",
            )
        return module

    def _hook_process(self, pid: int) -> None:
        """Hook what a process has mapped, and what it may map later."""
        assert self._hooks is not None
        modules = Modules(pid)
        self._kernels.remember(modules)
        for module in modules.mapped:
            self._hooks.attach(module, pid)
        if self.library:
            module = self._named_library(modules)
            self._hooks.attach(module, pid, ahead=module.mapping is None)
        if self._hooks.multi:  # hundreds of events for libraries that may never come would take long to close
            for module in candidates(pid, modules.root, self.layers):
                self._hooks.attach(module, pid, ahead=True)

    def _hook_machine(self) -> None:
        assert self._hooks is not None
        if self.library:
            self._hooks.attach(self._named_library(Modules(None)), None)
        for module in candidates(None, "", self.layers):
            self._hooks.attach(module, None)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(TargetGone, NotPermitted):
                    for module in Modules(int(entry.name)).mapped:
                        self._hooks.attach(module, None)

    def _nothing_found(self) -> UnknownSymbol:
        looked = ", ".join(LIBRARIES[layer] for layer in self.layers)
        whose = "this machine" if self._target.machine else f"process {self._target.pid}"
        return UnknownSymbol(
            f"no GPU API library found for {whose}: no {looked}, and no mapped file with such functions of its own",
            "with a command or --pid, `gpu` waits until one is mapped (wait=yes, the default); name the file with "
            "library=PATH if it has another name; a stripped program with a static CUDA runtime shows only the "
            "driver's calls (gpu:driver)",
        )

    def attach_process(self, pid: int) -> None:
        if self._hooks is not None and not self._target.machine:
            self._hooks.prune()
            self._hook_process(pid)

    def mapped(self, pid: int, path: str) -> None:
        """A process in scope has mapped a file as code: hook it if it holds API functions."""
        if self._hooks is None or not path.startswith("/"):
            return
        key = None if self._target.machine else pid
        place = f"/proc/{pid}/root{path}"
        with contextlib.suppress(OSError):
            if Path(path).samefile(place):
                place = path
        self._hooks.attach(Module(path, place), key)

    def notes(self) -> dict[str, Any]:
        """What was hooked, for the manifest."""
        if self._hooks is not None:
            self._notes = {
                "layers": list(self.layers),
                "libraries": dict(self._hooks.libraries),
                "processes": self._hooks.processes,
                "attach": "multi" if self._hooks.multi else "events",
                "refused": self._hooks.refused[:100],
            }
        return {"gpu": self._notes}

    # Data ---------------------------------------------------------------------------------------------------------

    def wake_fds(self) -> tuple[int, ...]:
        return (self._rings[0].fileno(),) if self._rings and not self.count else ()

    def drain(self) -> int:
        if self._hooks is None or self.count:
            return 0
        total = 0
        calls = self._rings[0]
        end = calls.position + calls.waiting  # only what waits now: a fast target cannot hold the recorder here
        while rows := self._drain_some():
            total += rows
            if calls.position >= end:
                break
        self.counters.events += total
        lost = self._hooks.loaded.globals
        self.counters.lost = sum(int(lost[name][()]) for name in ("lost_ring_full", "lost_map_full", "lost_nested"))
        return total

    def _drain_some(self) -> int:
        # Calls are taken out before names, so that the name of every kernel launched in them is there.
        head: dict[str, NDArray[Any]]
        stacks = None
        if self._columns is not None:
            rows = self._columns.drain()
            head = self._columns.take(rows)
        else:
            records = self._records.drain()
            rows = len(records)
            head = records.head(self._dtype) if rows else {}
        while count := self._names.drain():
            taken = self._names.take(count)
            self._kernels.add(taken, self._rows.layer[taken["api"].astype(np.int64)])
        if not rows:
            return 0
        if self._stacks is not None:
            pids = head["pid"].astype(np.int32)
            stacks = self._stacks.ids(records, pids, head["stack"], self._dtype.itemsize)
        self._sink.append("gpu_calls", self._rows.calls(head, stacks))
        return rows

    def checkpoint(self, sink: Sink) -> None:
        """Append what is counted in maps, as it is now."""
        if self._hooks is not None:
            append_counts(sink, self._hooks, self._rows, count=self.count)

    def detach(self) -> None:
        if self._hooks is not None:
            if self._cost is not None:
                self._cost.stop()
            self._hooks.detach()

    def finish(self) -> None:
        if self._hooks is None:
            return
        try:
            self.notes()
            append_summary(self._sink, self._hooks, self._rows, count=self.count, stacks=self._cost)
        finally:
            self._close()

    def _close(self) -> None:
        hooks, self._hooks = self._hooks, None
        if self._cost is not None:
            self._cost.stop()
        rings, self._rings = self._rings, []
        if hooks is not None:
            hooks.detach()
        for ring in rings:
            with contextlib.suppress(BufferError, WorkbenchError):
                ring.close()
        if hooks is not None:
            hooks.close()
