"""Names of kernels: from the calls that tie a handle to a name, else from the program's symbols."""

from __future__ import annotations

import bisect
import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.modules import Modules
from workbench.errors import WorkbenchError
from workbench.frames.symbols.demangle import demangle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ("KernelNames",)

_RUNTIME = 0


class KernelNames:
    """Name of the kernel behind each handle.

    OpenCL and the CUDA driver give a name when the handle is made (`clCreateKernel`, `cuModuleGetFunction`); the CUDA
    runtime when the program starts (`__cudaRegisterFunction`), or, as its handle is a host function, by its symbol.
    Handles made before the recording are known only in the runtime layer.
    """

    def __init__(self) -> None:
        # A handle can come back with another name: (times, names) of each.
        self._known: dict[tuple[int, int, int], tuple[list[int], list[str]]] = {}
        self._symbols: dict[tuple[int, int], str] = {}
        self._modules: dict[int, Modules] = {}

    def remember(self, modules: Modules) -> None:
        """What a process has mapped: a short one has exited when its launches are taken out."""
        if modules.pid is not None:
            self._modules[modules.pid] = modules

    def add(self, records: Mapping[str, NDArray[Any]], layers: NDArray[np.int64]) -> None:
        """Take in records of ring `names`.

        Parameters
        ----------
        records : columns time, pid, handle, text
        layers : int64, shape (n,)
            Layer number of each.
        """
        rows = zip(
            records["time"].tolist(), records["pid"].tolist(), layers.tolist(), records["handle"].tolist(),
            records["text"].tolist(), strict=True,
        )  # fmt: skip
        for time, pid, layer, handle, text in rows:
            if text:
                times, names = self._known.setdefault((pid, layer, handle), ([], []))
                at = bisect.bisect(times, time)
                times.insert(at, time)
                names.insert(at, demangle(text))

    def column(
        self,
        launches: NDArray[np.bool_],
        times: NDArray[np.int64],
        pids: NDArray[np.int32],
        layers: NDArray[np.int64],
        handles: NDArray[np.uint64],
    ) -> tuple[NDArray[np.int32], list[str]]:
        """Kernel name of every row that is a launch, empty for the others: codes and their texts."""
        codes = np.zeros(len(pids), np.int32)
        texts = [""]
        rows = np.flatnonzero(launches)
        keys = np.empty(len(rows), [("pid", np.int32), ("layer", np.int64), ("handle", np.uint64)])
        keys["pid"], keys["layer"], keys["handle"] = pids[rows], layers[rows], handles[rows]
        unique, inverse = np.unique(keys, return_inverse=True)
        inverse = inverse.reshape(-1)
        for number, (pid, layer, handle) in enumerate(unique.tolist()):
            known_times, names = self._known.get((pid, layer, handle), ((), ()))
            own = rows[inverse == number] if len(known_times) > 1 else None
            if own is not None:
                which = np.maximum(np.searchsorted(np.array(known_times), times[own], "right") - 1, 0)
                codes[own] = len(texts) + which
                texts += names
                continue
            name = names[0] if names else self._symbol(pid, handle) if layer == _RUNTIME else ""
            if name:
                codes[rows[inverse == number]] = len(texts)
                texts.append(name)
        return codes, texts

    def _symbol(self, pid: int, address: int) -> str:
        if (pid, address) not in self._symbols:
            self._symbols[pid, address] = ""
            modules = self._modules.get(pid)
            with contextlib.suppress(WorkbenchError):  # it exited: what it had mapped at first is left
                modules = Modules(pid)
            with contextlib.suppress(WorkbenchError):
                for module in modules or ():
                    if module.bias is None:
                        continue
                    at = np.array([address - module.bias], np.int64)
                    if at[0] < 0:
                        continue
                    index = int(module.symbols.find_address(at.astype(np.uint64), "function")[0])
                    if index >= 0 and module.symbols[index].address == at[0]:
                        self._symbols[pid, address] = module.symbols[index].demangled
                        break
        return self._symbols[pid, address]
