"""Readable names: C++ by the C++ runtime's own demangler, Rust's legacy scheme by ours."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ("demangle", "demangle_all")

_RUST_HASH = re.compile(rb"17h[0-9a-f]{16}E(?:\..*)?$")
_ESCAPES = {
    "$SP$": "@", "$BP$": "*", "$RF$": "&", "$LT$": "<", "$GT$": ">", "$LP$": "(", "$RP$": ")", "$C$": ",",
}  # fmt: skip
_ESCAPE = re.compile(r"\$(?:SP|BP|RF|LT|GT|LP|RP|C|u[0-9a-f]{1,6})\$")
_MAX_LENGTH = 64 * 1024


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


def _rust_legacy(mangled: bytes) -> str | None:
    """Rust's `_ZN..17h<hash>E` names, hash dropped: length-prefixed path parts with $-escapes."""
    text = mangled.decode("utf-8", "replace")
    at, parts = 3, []
    while at < len(text) and text[at].isdigit():
        digits = at
        while at < len(text) and text[at].isdigit():
            at += 1
        length = int(text[digits:at][:6])
        parts.append(text[at : at + length])
        at += length
    if len(parts) < 2 or at >= len(text) or text[at] != "E":
        return None

    def plain(part: str) -> str:
        part = part[1:] if part.startswith("_$") else part
        part = _ESCAPE.sub(_unescape, part)
        return part.replace("..", "::")

    return "::".join(plain(part) for part in parts[:-1])


def _unescape(match: re.Match[str]) -> str:
    token = match.group()
    if token in _ESCAPES:
        return _ESCAPES[token]
    code = int(token[2:-1], 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else token


def demangle(name: bytes) -> str:
    """The readable form of a symbol name; the name itself where it is not mangled or cannot be demangled.

    Parameters
    ----------
    name : bytes
        Raw symbol name, without terminating NUL.
    """
    if len(name) > _MAX_LENGTH or not name.startswith((b"_Z", b"_R", b"__Z")):
        return name.decode("utf-8", "replace")
    if name.startswith(b"_ZN") and _RUST_HASH.search(name) and (rust := _rust_legacy(name)):
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


def demangle_all(names: Iterable[bytes]) -> list[str]:
    """`demangle` of each name."""
    return [demangle(name) for name in names]
