"""Readable Rust names: the legacy scheme (``_ZN..17h<hash>E``) and v0 (``_R..``, the default since Rust 1.95).

v0 is specified in Rust RFC 2603, "Rust symbol name mangling v0". Hashes and crate disambiguators are left out, as
rustc-demangle's short form does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("demangle_legacy", "demangle_v0")

LEGACY = re.compile(rb"_ZN.*17h[0-9a-f]{16}E(?:\..*)?", re.DOTALL)
_ESCAPES = {
    "$SP$": "@", "$BP$": "*", "$RF$": "&", "$LT$": "<", "$GT$": ">", "$LP$": "(", "$RP$": ")", "$C$": ",",
}  # fmt: skip
_ESCAPE = re.compile(r"\$(?:SP|BP|RF|LT|GT|LP|RP|C|u[0-9a-f]{1,6})\$")
_BASIC = {
    "a": "i8", "b": "bool", "c": "char", "d": "f64", "e": "str", "f": "f32", "h": "u8", "i": "isize", "j": "usize",
    "l": "i32", "m": "u32", "n": "i128", "o": "u128", "s": "i16", "t": "u16", "u": "()", "v": "...", "x": "i64",
    "y": "u64", "z": "!", "p": "_",
}  # fmt: skip
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_DEPTH, MAX_STEPS, MAX_LENGTH = 128, 20_000, 1 << 16


def demangle_legacy(mangled: bytes) -> str | None:
    """Path of a legacy name without its hash: length-prefixed parts with $-escapes; None for other names."""
    if not LEGACY.fullmatch(mangled):
        return None
    text = mangled.decode("utf-8", "replace")
    at, parts = 3, []
    while at < len(text) and text[at] in "0123456789":
        digits = at
        while at < len(text) and text[at] in "0123456789":
            at += 1
        length = int(text[digits:at][:6])
        parts.append(text[at : at + length])
        at += length
    if len(parts) < 2 or at >= len(text) or text[at] != "E":
        return None
    return "::".join(_plain(part) for part in parts[:-1])


def _plain(part: str) -> str:
    part = part[1:] if part.startswith("_$") else part
    return _ESCAPE.sub(_unescape, part).replace("..", "::")


def _unescape(match: re.Match[str]) -> str:
    token = match.group()
    if token in _ESCAPES:
        return _ESCAPES[token]
    code = int(token[2:-1], 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else token


def demangle_v0(mangled: bytes) -> str | None:
    """Readable form of a v0 name, None where it does not follow the grammar (or is made to explode)."""
    try:
        text = mangled.decode("ascii")
    except UnicodeDecodeError:
        return None
    if not text.startswith("_R") or len(text) < 3 or not text[2].isupper():
        return None
    body, dot, suffix = text[2:].partition(".")
    try:
        readable = _V0(body).path(value=True)
    except (_Malformed, RecursionError):
        return None
    return f"{readable} [clone .{suffix}]" if dot and not suffix.startswith("llvm.") else readable


class _Malformed(Exception):
    pass


class _V0:
    """One pass over a name; methods are the nonterminals of the RFC's grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.steps = 0
        self.binders = 0

    def next(self) -> str:
        if self.at >= len(self.text):
            raise _Malformed
        self.at += 1
        return self.text[self.at - 1]

    def take(self, letter: str) -> bool:
        if self.text.startswith(letter, self.at):
            self.at += 1
            return True
        return False

    def base62(self) -> int:
        value = 0
        if self.take("_"):
            return 0
        while not self.take("_"):
            digit = _DIGITS.find(self.next())
            if digit < 0 or value > 1 << 64:
                raise _Malformed
            value = value * 62 + digit
        return value + 1

    def disambiguator(self) -> int:
        return self.base62() + 1 if self.take("s") else 0

    def identifier(self) -> str:
        encoded = self.take("u")
        start = self.at
        # A length has no leading zero: "00" is two empty identifiers.
        if not self.take("0"):
            while self.at < len(self.text) and self.text[self.at] in "0123456789":
                self.at += 1
        if start == self.at or self.at - start > 6:
            raise _Malformed
        length = int(self.text[start : self.at])
        self.take("_")
        name = self.text[self.at : self.at + length]
        if len(name) != length:
            raise _Malformed
        self.at += length
        if not encoded:
            return name
        head, _, tail = name.rpartition("_")
        try:
            return (f"{head}-{tail}" if head else tail).encode().decode("punycode")
        except (UnicodeError, ValueError, OverflowError) as error:
            raise _Malformed from error

    def enter(self) -> None:
        self.depth += 1
        self.steps += 1
        if self.depth > MAX_DEPTH or self.steps > MAX_STEPS:
            raise _Malformed

    def sized(self, text: str) -> str:
        # Back references can double the text at each step.
        if len(text) > MAX_LENGTH:
            raise _Malformed
        self.depth -= 1
        return text

    def back(self, begin: int) -> int:
        target = self.base62()
        if target >= begin:
            raise _Malformed
        here, self.at = self.at, target
        return here

    def path(self, *, value: bool) -> str:
        self.enter()
        begin = self.at
        kind = self.next()
        if kind == "C":
            self.disambiguator()
            return self.sized(self.identifier())
        if kind == "M":
            self.disambiguator()
            self.path(value=False)
            return self.sized(f"<{self.type()}>")
        if kind == "X":
            self.disambiguator()
            self.path(value=False)
            own = self.type()
            return self.sized(f"<{own} as {self.path(value=False)}>")
        if kind == "Y":
            own = self.type()
            return self.sized(f"<{own} as {self.path(value=False)}>")
        if kind == "N":
            return self.sized(self.nested(value=value))
        if kind == "I":
            outer = self.path(value=value)
            arguments = self.until_end(self.argument)
            return self.sized(f"{outer}{'::' if value else ''}<{', '.join(arguments)}>")
        if kind == "B":
            here = self.back(begin)
            found = self.path(value=value)
            self.at = here
            return self.sized(found)
        raise _Malformed

    def nested(self, *, value: bool) -> str:
        space = self.next()
        outer = self.path(value=value)
        number = self.disambiguator()
        name = self.identifier()
        if space.isupper():
            label = {"C": "closure", "S": "shim"}.get(space, space)
            return f"{outer}::{{{label}{':' if name else ''}{name}#{number}}}"
        return f"{outer}::{name}" if name else outer

    def until_end(self, part: Callable[[], str]) -> list[str]:
        found = []
        while not self.take("E"):
            found.append(part())
        return found

    def argument(self) -> str:
        if self.take("L"):
            return self.lifetime(self.base62())
        if self.take("K"):
            return self.const()
        return self.type()

    def lifetime(self, index: int) -> str:
        if index == 0:
            return "'_"
        level = self.binders - index
        return f"'{chr(ord('a') + level)}" if 0 <= level < 26 else f"'_{level}"

    def type(self) -> str:
        self.enter()
        begin = self.at
        kind = self.next()
        if kind in _BASIC:
            return self.sized(_BASIC[kind])
        if kind == "A":
            inner = self.type()
            return self.sized(f"[{inner}; {self.const()}]")
        if kind == "S":
            return self.sized(f"[{self.type()}]")
        if kind == "T":
            parts = self.until_end(self.type)
            return self.sized(f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})")
        if kind in "RQ":
            lifetime = (
                self.lifetime(index) + " " if self.take("L") and (index := self.base62()) else ""
            )
            return self.sized(f"&{lifetime}{'mut ' if kind == 'Q' else ''}{self.type()}")
        if kind in "PO":
            return self.sized(f"*{'const' if kind == 'P' else 'mut'} {self.type()}")
        if kind == "F":
            return self.sized(self.function())
        if kind == "D":
            return self.sized(self.dynamic())
        if kind == "B":
            here = self.back(begin)
            found = self.type()
            self.at = here
            return self.sized(found)
        self.at = begin
        return self.sized(self.path(value=False))

    def binder(self) -> str:
        if not self.take("G"):
            return ""
        count = self.base62() + 1
        if count > 64:
            raise _Malformed
        self.binders += count
        return "for<" + ", ".join(self.lifetime(i) for i in range(count, 0, -1)) + "> "

    def function(self) -> str:
        outer = self.binders
        head = self.binder()
        if self.take("U"):
            head += "unsafe "
        if self.take("K"):
            abi = "C" if self.take("C") else self.identifier().replace("_", "-")
            head += f'extern "{abi}" '
        inputs = ", ".join(self.until_end(self.type))
        result = self.type()
        self.binders = outer
        return f"{head}fn({inputs})" + ("" if result == "()" else f" -> {result}")

    def dynamic(self) -> str:
        outer = self.binders
        bounds = "dyn " + self.binder() + " + ".join(self.until_end(self.bound))
        self.binders = outer
        if not self.take("L"):
            raise _Malformed
        index = self.base62()
        return f"{bounds} + {self.lifetime(index)}" if index else bounds

    def bound(self) -> str:
        trait = self.path(value=False)
        items = []
        while self.take("p"):
            name = self.identifier()
            items.append(f"{name} = {self.type()}")
        if not items:
            return trait
        joined = ", ".join(items)
        return f"{trait[:-1]}, {joined}>" if trait.endswith(">") else f"{trait}<{joined}>"

    def const(self) -> str:
        self.enter()
        begin = self.at
        kind = self.next()
        if kind == "p":
            return self.sized("_")
        if kind == "B":
            here = self.back(begin)
            found = self.const()
            self.at = here
            return self.sized(found)
        if kind not in _BASIC:
            raise _Malformed
        sign = "-" if self.take("n") else ""
        end = self.text.find("_", self.at)
        digits = self.text[self.at : end] if end >= 0 else "?"
        if not re.fullmatch(r"[0-9a-f]{0,64}", digits):
            raise _Malformed
        self.at = end + 1
        number = int(digits or "0", 16)
        if kind == "b":
            return self.sized("true" if number else "false")
        if kind == "c":
            return self.sized(repr(chr(number)) if number < 0x110000 else "_")
        return self.sized(f"{sign}{number}")
