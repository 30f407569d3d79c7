"""Readable names: C++ by the C++ runtime's own demangler, Rust by ours."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache
from typing import TYPE_CHECKING, Any

from workbench.frames.symbols.rust_names import demangle_legacy, demangle_v0

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("demangle",)

_MAX_LENGTH = 16 * 1024


@cache
def _runtime() -> Callable[[bytes], str | None] | None:
    """`__cxa_demangle` (Itanium C++ ABI, section 3.4), or None where no C++ runtime is installed."""
    for name in ("libstdc++.so.6", "libc++abi.so.1", ctypes.util.find_library("stdc++")):
        try:
            if name:
                return _bind(ctypes.CDLL(name).__cxa_demangle, ctypes.CDLL(None).free)
        except (OSError, AttributeError):
            continue
    return None


def _bind(function: Any, free: Any) -> Callable[[bytes], str | None]:
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    function.restype = ctypes.c_void_p
    free.argtypes = [ctypes.c_void_p]
    free.restype = None

    def call(mangled: bytes) -> str | None:
        pointer = function(mangled, None, None, None)
        if not pointer:
            return None
        try:
            return ctypes.string_at(pointer).decode("utf-8", "replace")
        finally:
            free(pointer)

    return call


def demangle(name: bytes) -> str:
    """The readable form of a symbol name; the name itself where it is not mangled or cannot be demangled.

    Parameters
    ----------
    name : bytes
        Raw symbol name, without terminating NUL.
    """
    if len(name) > _MAX_LENGTH or not name.startswith((b"_Z", b"_R", b"__Z")):
        return name.decode("utf-8", "replace")
    rust = demangle_v0(name) if name.startswith(b"_R") else demangle_legacy(name)
    if rust is not None:
        return rust
    runtime = _runtime()
    if runtime is not None and name.startswith(b"_Z"):
        # Clones that compilers make (foo.cold, foo.part.0) demangle without their suffix on old runtimes.
        found = runtime(name)
        if found is None and (dot := name.find(b".")) > 0:
            found = runtime(name[:dot])
            if found is not None:
                found += f" [{name[dot:].decode('utf-8', 'replace')}]"
        if found is not None:
            return found
    return name.decode("utf-8", "replace")
