"""Helpers and map operations as LLVM bitcode, so that they become part of the code that calls them.

Made from `workbench/native/runtime` by `python -m workbench.native.build` where clang is there; without it, every call
goes through the run's table. Only what needs nothing from elsewhere can be here: no system clock, no fault handler.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Final, NamedTuple

from workbench.native.bitcode import FOLDER

__all__ = (
    "HELPERS",
    "LARGEST_INLINE_VALUE",
    "LOOKUPS",
    "UPDATES",
    "Inlined",
    "available",
    "digest",
    "module",
)


class Inlined(NamedTuple):
    """A function that can be inlined: its name and the bitcode file that has it."""

    name: str
    file: str


#: Helpers by number; called as the table's are, with the run first.
HELPERS: Final = {
    7: Inlined("wb_helper_get_prandom_u32", "helpers_task"),
    14: Inlined("wb_helper_get_current_pid_tgid", "helpers_task"),
    58: Inlined("wb_helper_override_return", "helpers_control"),
    94: Inlined("wb_helper_spin_unlock", "helpers_control"),
    130: Inlined("wb_inline_output", "ring"),
    131: Inlined("wb_inline_reserve", "ring"),
    132: Inlined("wb_inline_submit", "ring"),
    133: Inlined("wb_inline_discard", "ring"),
    173: Inlined("wb_helper_get_func_ip", "helpers_control"),
    174: Inlined("wb_helper_get_attach_cookie", "helpers_control"),
    182: Inlined("wb_helper_strncmp", "helpers_text"),
    183: Inlined("wb_helper_get_func_arg", "helpers_control"),
    184: Inlined("wb_helper_get_func_ret", "helpers_control"),
    185: Inlined("wb_helper_get_func_arg_cnt", "helpers_control"),
    186: Inlined("wb_helper_get_retval", "helpers_control"),
    187: Inlined("wb_helper_set_retval", "helpers_control"),
}
_TYPES: Final = {1: "hash", 5: "percpu", 9: "lru", 10: "percpu"}
_KEY_SIZES: Final = (4, 8, 16)
#: Lookups by map type and size of the key: `void *f(run, map, key)`.
LOOKUPS: Final = {
    (kind, size): Inlined(f"wb_inline_{name}_{size}", f"hash_{size}")
    for kind, name in _TYPES.items()
    for size in _KEY_SIZES
}
#: Updates by map type and size of the key: `int64_t f(run, map, key, value, flags, value_size)`.
UPDATES: Final = {
    (kind, size): Inlined(f"wb_inline_update_{size}", f"hash_{size}")
    for kind in (1, 9)
    for size in _KEY_SIZES
}
#: Bytes of the largest value that is copied in line: of a larger copy LLVM makes a call without vector registers.
LARGEST_INLINE_VALUE: Final = 64


@cache
def available() -> frozenset[str]:
    """Names of the bitcode files that were built."""
    return frozenset(path.stem for path in FOLDER.glob("*.bc"))


@cache
def module(name: str) -> bytes:
    """Content of a bitcode file."""
    return (FOLDER / f"{name}.bc").read_bytes()


@cache
def digest() -> bytes:
    """SHA-256 of all bitcode."""
    total = hashlib.sha256()
    for name in sorted(available()):
        total.update(module(name))
    return total.digest()
