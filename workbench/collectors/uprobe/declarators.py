"""A parser of C parameter lists: `(const char *sql, int n, sqlite3_stmt **out)->int`.

Grammar: C11 6.7.6 (declarators) and 6.7.2 (type specifiers) for what may stand in a parameter list, on the LP64 data
model. An unknown type name is taken as an integer of the register's width, unless it is pointed to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from workbench.collectors.uprobe.types import CType, Parameter, Signature
from workbench.errors import BadSpec

__all__ = ("MAX_PARAMETERS", "parse_signature", "parse_type")

MAX_PARAMETERS = 64
_TOKEN = re.compile(r"\s*(?:(\.\.\.|->|[A-Za-z_]\w*(?:::[A-Za-z_]\w*)*|\d+|[*&()\[\],])|(\S))")
_QUALIFIERS = {
    "const",
    "volatile",
    "restrict",
    "__restrict",
    "__restrict__",
    "register",
    "_Atomic",
    "extern",
    "static",
}
_BASIC = {"void", "char", "short", "int", "long", "signed", "unsigned", "float", "double", "bool", "_Bool",
          "__int128"}  # fmt: skip
_TYPEDEFS: dict[str, tuple[int, bool]] = {
    **{f"{p}int{n}_t": (n // 8, not p) for n in (8, 16, 32, 64) for p in ("", "u")},
    **{f"__{p}{n}": (n // 8, p == "s") for n in (8, 16, 32, 64) for p in ("u", "s")},
    **{f"{p}{n}": (n // 8, p in "si") for n in (8, 16, 32, 64) for p in ("u", "s", "i")},
    "size_t": (8, False), "ssize_t": (8, True), "intptr_t": (8, True), "uintptr_t": (8, False), "ptrdiff_t": (8, True),
    "off_t": (8, True), "off64_t": (8, True), "loff_t": (8, True), "time_t": (8, True), "clock_t": (8, True),
    "pid_t": (4, True), "uid_t": (4, False), "gid_t": (4, False), "mode_t": (4, False), "dev_t": (8, False),
    "ino_t": (8, False), "socklen_t": (4, False), "clockid_t": (4, True), "wchar_t": (4, True), "wint_t": (4, False),
    "pthread_t": (8, False), "usize": (8, False), "isize": (8, True), "uint": (4, False), "ulong": (8, False),
    "ushort": (2, False), "uchar": (1, False), "cudaStream_t": (8, False), "cudaError_t": (4, True),
}  # fmt: skip


@dataclass(slots=True)
class _Tokens:
    text: str
    items: list[str]
    at: int = 0

    @property
    def next(self) -> str:
        return self.items[self.at] if self.at < len(self.items) else ""

    def take(self, expected: str = "") -> str:
        token = self.next
        if expected and token != expected:
            raise BadSpec(
                f"signature {self.text!r}: expected {expected!r}, found {token or 'its end'!r}",
                "for example (const char *name, int count, void **out)->int",
            )
        self.at += 1
        return token


def _tokens(text: str) -> _Tokens:
    items = []
    for match in _TOKEN.finditer(text):
        if match[2]:
            raise BadSpec(f"signature {text!r}: {match[2]!r} does not belong in a C type")
        items.append(match[1])
    return _Tokens(text, items)


def parse_signature(text: str) -> Signature:
    """Parse `(PARAMETERS)` or `(PARAMETERS)->RESULT`.

    Raises
    ------
    BadSpec
        It is not C.
    """
    tokens = _tokens(text)
    tokens.take("(")
    parameters: list[Parameter] = []
    variadic = False
    while tokens.next != ")":
        if tokens.next == "...":
            tokens.take()
            variadic = True
            break
        parameters.append(_parameter(tokens))
        if len(parameters) > MAX_PARAMETERS:
            raise BadSpec(f"signature with more than {MAX_PARAMETERS} parameters")
        if tokens.next != ")":
            tokens.take(",")
            if tokens.next == ")":
                raise BadSpec(f"signature {text!r} ends with a comma")
    tokens.take(")")
    result = None
    if tokens.next == "->":
        tokens.take()
        result = _parameter(tokens).type
    if tokens.next:
        raise BadSpec(f"signature {text!r}: {tokens.next!r} after its end")
    if [(p.name, p.type.kind) for p in parameters] == [("", "void")]:
        parameters.clear()
    if any(p.type.kind == "void" for p in parameters):
        raise BadSpec(f"signature {text!r}: a parameter cannot be void")
    names = [p.name for p in parameters if p.name]
    if len(set(names)) != len(names):
        raise BadSpec(f"signature {text!r} names a parameter twice")
    return Signature(tuple(parameters), result, variadic)


def parse_type(text: str) -> CType:
    """Parse one type name, `unsigned long` or `char *`."""
    tokens = _tokens(text)
    found = _parameter(tokens)
    if tokens.next or found.name:
        raise BadSpec(f"{text!r} is not a C type")
    return found.type


def _parameter(tokens: _Tokens) -> Parameter:
    base = _specifiers(tokens)
    pointers, name, function = _declarator(tokens)
    if function and not pointers:
        pointers = 1  # a function parameter is a pointer to it (C11 6.7.6.3)
    if not pointers:
        return Parameter(name, base)
    stars = "*" * pointers
    if pointers == 1 and base.kind == "char" and not function:
        return Parameter(name, CType("string", 8, False, f"{base.name} {stars}"))
    return Parameter(name, CType("pointer", 8, False, f"{base.name} {stars}"))


def _specifiers(tokens: _Tokens) -> CType:
    words: list[str] = []
    shown: list[str] = []
    tag = ""
    while (token := tokens.next) and (token[0].isalpha() or token[0] == "_"):
        if token in _QUALIFIERS:
            shown += [token] if token == "const" else []
        elif token in ("struct", "union", "enum", "class"):
            if words:
                break
            tokens.take()
            tag = token
            words = [tokens.take()]
            if not (words[0][:1].isalpha() or words[0][:1] == "_"):
                raise BadSpec(f"signature {tokens.text!r}: {tag} without a name")
            shown += [tag, *words]
            continue
        elif token in _BASIC:
            if tag or (words and words[0] not in _BASIC):
                break
            words.append(token)
            shown.append(token)
        elif words:
            break  # the name of the parameter
        else:
            words, shown = [token], [*shown, token]
        tokens.take()
    if not words:
        raise BadSpec(
            f"signature {tokens.text!r}: a type is missing before {tokens.next or 'the end'!r}"
        )
    name = " ".join(shown)
    if tag == "enum":
        return CType("enum", 4, False, name)
    if tag:
        return CType("aggregate", 8, False, name)
    if words[0] not in _BASIC:
        size, signed = _TYPEDEFS.get(words[0], (8, True))
        return CType("integer", size, signed, name)
    return _basic(words, name, tokens.text)


def _basic(words: list[str], name: str, text: str) -> CType:
    found = set(words)
    unsigned = "unsigned" in found
    longs = words.count("long")
    if found <= {"bool", "_Bool"}:
        return CType("bool", 1, False, name)
    if found == {"void"}:
        return CType("void", 0, False, name)
    if found == {"float"} or ("double" in found and found <= {"double", "long"}):
        return CType("float", 4 if "float" in found else 8 + 8 * longs, True, name)
    if "char" in found and found <= {"char", "signed", "unsigned"}:
        return CType("char", 1, not unsigned, name)
    integer = found <= {"short", "int", "long", "signed", "unsigned"} and longs <= 2
    if not integer or {"signed", "unsigned"} <= found or ("short" in found and longs):
        raise BadSpec(f"signature {text!r}: {name!r} is not a C type that a probe can read")
    return CType("integer", 2 if "short" in found else 8 if longs else 4, not unsigned, name)


def _declarator(tokens: _Tokens) -> tuple[int, str, bool]:
    """(levels of pointer, name, is a function) of a possibly abstract declarator."""
    pointers = 0
    while tokens.next in ("*", "&") or tokens.next in _QUALIFIERS:
        pointers += tokens.take() in "*&"
    name, function = "", False
    if tokens.next == "(" and tokens.items[tokens.at + 1 : tokens.at + 2] in (["*"], ["&"]):
        tokens.take()
        inner, name, _ = _declarator(tokens)
        pointers += inner
        tokens.take(")")
        function = True
    elif tokens.next and (tokens.next[0].isalpha() or tokens.next[0] == "_"):
        name = tokens.take()
    while tokens.next in ("[", "("):
        if tokens.next == "[":
            tokens.take()
            while tokens.next and tokens.next != "]":
                tokens.take()
            tokens.take("]")
            pointers += not function  # an array parameter is a pointer (C11 6.7.6.3)
        else:
            _skip_parentheses(tokens)
            function = True
    return pointers, name, function


def _skip_parentheses(tokens: _Tokens) -> None:
    depth = 0
    while True:
        token = tokens.take()
        if not token:
            raise BadSpec(f"signature {tokens.text!r}: a parenthesis is not closed")
        depth += (token == "(") - (token == ")")
        if not depth:
            return
