"""What libbpf makes of an object: relocated instructions of every program and the attributes of every map.

The object is loaded for it, with the types of a file of choice as the target; a program that the kernel refuses is
read all the same, for relocation comes first.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.kernel.libbpf import capture_log, library, log_text

_P, _U32, _U64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root", ctypes.c_char_p),
        ("reserved", _U32),
        ("kconfig", ctypes.c_char_p),
        ("btf", ctypes.c_char_p),
    )


@dataclass(frozen=True)
class OracleMap:
    """A map as libbpf created it."""

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    extra: int


@dataclass(frozen=True)
class Oracle:
    """Result of `run`: `status` of bpf_object__load (0, or a negative errno), code by program name."""

    status: int
    log: str
    code: dict[str, bytes]
    types: dict[str, int]
    maps: list[OracleMap]
    descriptors: list[int]


def run(path: Path, target: Path | None = None) -> Oracle:
    """Open and load `path` with libbpf; everything is closed again on return."""
    lib: Any = library()
    for name, result in (("insns", _P), ("insn_cnt", ctypes.c_size_t), ("type", ctypes.c_int)):
        entry = getattr(lib, f"bpf_program__{name}")
        entry.restype, entry.argtypes = result, (_P,)
    lib.bpf_map__map_extra.restype, lib.bpf_map__map_extra.argtypes = _U64, (_P,)
    options = _Options(ctypes.sizeof(_Options), b"oracle", False, None, 0, None, None)
    if target is not None:
        options.btf = os.fsencode(target)
    data = path.read_bytes()
    capture_log()
    handle = lib.bpf_object__open_mem(data, len(data), ctypes.addressof(options))
    if not handle:
        return Oracle(-1, log_text(), {}, {}, [], [])
    try:
        status = lib.bpf_object__load(handle)
        log = log_text()
        code, types, maps, fds = {}, {}, [], []
        one = lib.bpf_object__next_program(handle, None)
        while one:
            name = lib.bpf_program__name(one).decode()
            count = lib.bpf_program__insn_cnt(one)
            code[name] = ctypes.string_at(lib.bpf_program__insns(one), 8 * count)
            types[name] = lib.bpf_program__type(one)
            one = lib.bpf_object__next_program(handle, one)
        one = lib.bpf_object__next_map(handle, None)
        while one:
            made = OracleMap(
                lib.bpf_map__name(one).decode(),
                lib.bpf_map__type(one),
                lib.bpf_map__key_size(one),
                lib.bpf_map__value_size(one),
                lib.bpf_map__max_entries(one),
                lib.bpf_map__map_flags(one),
                lib.bpf_map__map_extra(one),
            )
            maps.append(made)
            fds.append(lib.bpf_map__fd(one))
            one = lib.bpf_object__next_map(handle, one)
        return Oracle(status, log, code, types, maps, fds)
    finally:
        lib.bpf_object__close(handle)
