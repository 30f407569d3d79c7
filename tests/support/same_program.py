"""One program in the kernel and in user space: the same bytes, the same global data, what each made of it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import workbench as wb
from workbench.kernel.raw_program import KernelMap, KernelProgram
from workbench.objects.link import link
from workbench.objects.linked import LinkedMap, LinkedProgram
from workbench.objects.model import builtin
from workbench.runtime.helpers.native import CProgram, StandaloneRun, execute
from workbench.runtime.jit import compile_program, load
from workbench.runtime.maps.core import CMap

__all__ = ("HEAD", "SameProgram")

HEAD = """
#include "workbench.h"
char LICENSE[] SEC("license") = "GPL";
"""
_ARRAY = 2


class _Array:
    """An array map of one element in private memory, which is all that global data needs."""

    def __init__(self, shape: LinkedMap) -> None:
        self.memory = ctypes.create_string_buffer(shape.value_size + 64)
        self.start = -ctypes.addressof(self.memory) % 64
        self.struct = CMap(
            type=shape.type,
            key_size=shape.key_size,
            value_size=shape.value_size,
            max_entries=shape.max_entries,
            values=ctypes.addressof(self.memory) + self.start,
            stride=shape.value_size,
        )
        self.size = shape.value_size
        self.put(shape.initial)

    def put(self, value: bytes) -> None:
        ctypes.memmove(ctypes.addressof(self.memory) + self.start, value, len(value))

    def get(self) -> bytes:
        return self.memory.raw[self.start : self.start + self.size]


class SameProgram:
    """C source with one program, `SEC("syscall")` or `SEC("xdp")`, that talks through its global variables."""

    def __init__(self, source: str, folder: Path, *, platform: bool = False) -> None:
        path = folder / "same.bpf.c"
        path.write_text(HEAD + source)
        btf = builtin("userspace").btf if platform else None
        self.linked = link(wb.compile(path), btf=btf)
        ((self.name, self.program),) = self.linked.programs.items()
        self._kernel_maps: list[KernelMap] = []
        self._kernel: KernelProgram | None = None
        self._arrays: list[_Array] = []
        self._code: Any = None
        self.run = StandaloneRun()

    def __enter__(self) -> SameProgram:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._kernel is not None:
            self._kernel.close()
        for one in self._kernel_maps:
            one.close()
        if self._code is not None:
            self._code.close()

    def _layout(self) -> tuple[int, Mapping[str, Any]]:
        """Index of the map of writable global data and its variables: name -> (offset, dtype)."""
        assert self.linked.btf is not None
        found = {}
        index = -1
        for name, variable in self.linked.variables.items():
            if self.linked.maps[variable.map].name.startswith((".bss", ".data")):
                index = variable.map
                found[name] = (variable.offset, self.linked.btf.dtype(variable.type))
        return index, found

    def _fill(self, values: Mapping[str, Any]) -> tuple[int, bytes]:
        index, variables = self._layout()
        data = bytearray(self.linked.maps[index].value_size)
        initial = self.linked.maps[index].initial
        data[: len(initial)] = initial
        for name, value in values.items():
            offset, dtype = variables[name]
            base, shape = dtype.subdtype or (dtype, ())
            if isinstance(value, bytes):
                data[offset : offset + len(value)] = value
            else:
                np.ndarray(shape, base, data, offset)[...] = value
        return index, bytes(data)

    def _read(self, data: bytes) -> dict[str, Any]:
        values = {}
        for name, (offset, dtype) in self._layout()[1].items():
            base, shape = dtype.subdtype or (dtype, ())
            values[name] = np.ndarray(shape, base, data, offset).copy()
        return values

    @property
    def kernel_program(self) -> KernelProgram:
        if self._kernel is None:
            self._kernel_maps = [KernelMap(one) for one in self.linked.maps]
            callbacks = self.program.functions if len(self.program.functions) > 1 else ()
            self._kernel = KernelProgram(
                self.program.code, self.program.type, self._kernel_maps, callbacks
            )
        return self._kernel

    def in_kernel(self, packet: bytes = b"", **values: Any) -> tuple[int, dict[str, Any]]:
        """(low 32 bits of r0, global variables after the run)."""
        program = self.kernel_program
        index, data = self._fill(values)
        key = bytes(4)
        self._kernel_maps[index].update(key, data)
        result, _ = program.run(packet)
        return result, self._read(self._kernel_maps[index].content[key])

    def _compiled(self) -> Any:
        if self._code is None:
            assert isinstance(self.program, LinkedProgram)
            self._arrays = [_Array(one) for one in self.linked.maps]
            self._code = load(compile_program(self.program, self.linked.maps))
            addresses = [ctypes.addressof(one.struct) for one in self._arrays]
            self._table = (ctypes.c_uint64 * max(len(addresses), 1))(*addresses)
            self._struct = CProgram(
                entry=self._code.address, maps=ctypes.addressof(self._table), budget=1 << 32
            )
        return self._code

    def in_user_space(self, ctx: int = 0, **values: Any) -> tuple[int, dict[str, Any]]:
        """(low 32 bits of r0, global variables after the run)."""
        self._compiled()
        index, data = self._fill(values)
        self._arrays[index].put(data)
        result = execute(ctypes.addressof(self._struct), ctx, self.run.address)
        return result & 0xFFFFFFFF, self._read(self._arrays[index].get())

    def both(self, **values: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Global variables after the kernel's run and after ours, which gave the same r0."""
        theirs, ours = self.in_kernel(**values), self.in_user_space(**values)
        assert theirs[0] == ours[0], (theirs, ours)
        return theirs[1], ours[1]
