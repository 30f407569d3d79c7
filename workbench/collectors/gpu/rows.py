"""Records of GPU API calls to rows of frames `gpu_calls`, `gpu_counts` and `gpu_memory`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.collectors.gpu.signature import LAYERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from workbench.collectors.gpu.kernels import KernelNames
    from workbench.collectors.gpu.signature import Api

__all__ = ("Rows",)

_KINDS = ("launch", "copy", "fill", "prefetch", "alloc", "free", "sync", "other")
_DIRECTIONS = ("", "host-to-host", "host-to-device", "device-to-host", "device-to-device", "default", "map", "unmap")
_NESTED = 1
_ROLES = (
    "source", "stream", "grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "direction", "dimensions",
    "from", "to",
)  # fmt: skip
_HOST_MEMORY = 1  # CU_MEMORYTYPE_HOST
_DEFAULT_KIND = 4  # cudaMemcpyDefault


class Rows:
    """Makes columns from batches of records."""

    def __init__(self, apis: Sequence[Api], kernels: KernelNames) -> None:
        self._kernels = kernels
        self.names = [api.name for api in apis]
        self.layer = np.array([LAYERS.index(api.layer) for api in apis], np.int64)
        # A function that only ties a name or takes a reference is `other` to the reader.
        self.kind = np.array([_KINDS.index(a.kind) if a.kind in _KINDS else 7 for a in apis], np.int32)
        self._space = [api.detail if api.kind == "alloc" else "" for api in apis]
        self._direction = np.array(
            [_DIRECTIONS.index(api.detail) if api.kind == "copy" else 0 for api in apis], np.int32
        )
        self._position = {role: np.array([api.position(role) for api in apis]) for role in _ROLES}

    def _value(self, role: str, api: NDArray[np.int64], values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        at = self._position[role][api]
        found: NDArray[np.uint64] = values[np.arange(len(api)), np.maximum(at, 0)]
        found[at < 0] = 0
        return found

    def _directions(self, api: NDArray[np.int64], values: NDArray[np.uint64]) -> NDArray[np.int32]:
        result = self._direction[api]
        given = self._position["direction"][api] >= 0
        kind = np.minimum(self._value("direction", api, values), _DEFAULT_KIND).astype(np.int32)
        result[given] = kind[given] + 1
        typed = self._position["from"][api] >= 0
        if typed.any():
            # CUmemorytype: 1 is host; device, array and unified count as device.
            from_device = self._value("from", api, values) != _HOST_MEMORY
            to_device = self._value("to", api, values) != _HOST_MEMORY
            result[typed] = (1 + 2 * from_device + to_device)[typed]
        return result

    def _sizes(self, api: NDArray[np.int64], values: NDArray[np.uint64]) -> dict[str, NDArray[np.int64]]:
        """Grid and block; dimensions that an OpenCL launch does not have are 1."""
        sizes = {name: self._value(name, api, values).astype(np.int64) for name in _ROLES[2:8]}
        opencl = self._position["dimensions"][api] >= 0
        if opencl.any():
            dimensions = self._value("dimensions", api, values)
            for number, axis in enumerate("xyz"):
                missing = opencl & (dimensions <= number)
                sizes[f"grid_{axis}"][missing] = 1
                sizes[f"block_{axis}"][missing] = sizes["block_x"][missing] != 0
        return sizes

    def calls(self, head: Mapping[str, NDArray[Any]], stacks: NDArray[np.int32] | None) -> dict[str, Any]:
        """Columns of frame `gpu_calls`."""
        api = head["api"].astype(np.int64)
        values = head["values"].reshape(len(api), -1)
        time, pid = head["time"].astype(np.int64), head["pid"].astype(np.int32)
        kind, direction = self.kind[api], self._directions(api, values)
        pointer = head["pointer"].copy()
        to_host = direction == _DIRECTIONS.index("device-to-host")
        to_host &= self._position["source"][api] >= 0
        pointer[to_host] = self._value("source", api, values)[to_host]
        launch = kind == _KINDS.index("launch")
        return {
            "time": time,
            "pid": pid,
            "tid": head["tid"].astype(np.int32),
            "cpu": head["cpu"].astype(np.int32),
            "comm": head["comm"],
            "layer": (self.layer[api].astype(np.int32), list(LAYERS)),
            "api": (api.astype(np.int32), self.names),
            "kind": (kind, list(_KINDS)),
            "direction": (direction, list(_DIRECTIONS)),
            "duration": head["duration"].astype(np.int64),
            "result": head["code"],
            "bytes": head["bytes"].astype(np.int64),
            "pointer": pointer,
            "kernel": self._kernels.column(launch, time, pid, self.layer[api], pointer),
            "stream": self._value("stream", api, values),
            **self._sizes(api, values),
            "nested": (head["flags"] & _NESTED) != 0,
            "stack": np.full(len(api), -1, np.int32) if stacks is None else stacks,
        }

    def counts(self, keys: NDArray[Any], values: NDArray[Any]) -> dict[str, Any]:
        """Columns of frame `gpu_counts` from the kernel's table, per CPU."""
        api = keys["cookie"].astype(np.int64) & 0xFFFF
        pid = keys["pid"].astype(np.int64)
        unique, inverse = np.unique(api << 32 | pid, return_inverse=True)
        inverse = inverse.reshape(-1)
        sums: dict[str, NDArray[np.int64]] = {}
        for name in ("calls", "errors", "bytes", "duration"):
            sums[name] = np.zeros(len(unique), np.int64)
            np.add.at(sums[name], inverse, values[name].astype(np.int64).sum(axis=1))
        number = unique >> 32
        return {
            "layer": (self.layer[number].astype(np.int32), list(LAYERS)),
            "api": (number.astype(np.int32), self.names),
            "kind": (self.kind[number], list(_KINDS)),
            "pid": (unique & 0xFFFFFFFF).astype(np.int32),
            "calls": sums["calls"],
            "errors": sums["errors"],
            "bytes": sums["bytes"],
            "total_duration": sums["duration"],
        }

    def memory(self, keys: NDArray[Any], values: NDArray[Any]) -> dict[str, Any]:
        """Columns of frame `gpu_memory` from the table of live allocations."""
        order = np.argsort(values["time"], kind="stable")
        keys, values = keys[order], values[order]
        api = values["api"].astype(np.int64)
        return {
            "time": values["time"].astype(np.int64),
            "pid": keys["pid"].astype(np.int32),
            "tid": values["tid"].astype(np.int32),
            "layer": (self.layer[api].astype(np.int32), list(LAYERS)),
            "api": (api.astype(np.int32), self.names),
            "space": [self._space[i] for i in api.tolist()],
            "pointer": keys["pointer"],
            "bytes": values["bytes"].astype(np.int64),
        }
