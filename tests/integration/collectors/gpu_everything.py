"""A library with every function of the table and a program that calls each once, written by the table itself.

The C compiler passes the arguments, by its own knowledge of the calling convention; what is expected in the rows is
computed here from the same values.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from workbench.collectors.gpu.apis import DRIVER, LAYOUTS, OPENCL, RUNTIME, SUFFIXES
from workbench.native.build import compiler

HEAD = """
#include <string.h>
typedef unsigned long long word;
typedef struct { unsigned x, y, z; } dim3;
extern int failing;
"""


@dataclass(slots=True)
class Expected:
    """One function: its C declaration, a statement that calls it, and what its row has to hold."""

    name: str
    layer: str
    kind: str
    detail: str
    result: str
    roles: dict[str, int] = field(default_factory=dict)
    factors: list[int] = field(default_factory=list)
    code: int = 0

    @property
    def bytes(self) -> int:
        scale = int(self.detail) if self.kind == "fill" and self.detail else 1
        return scale * prod(self.factors) if self.factors else 0


def _value(one: Expected, role: str, number: int, position: int, width: int) -> int:
    if role == "bytes":
        value = (1000 + number, 3, 5)[len(one.factors)]
        one.factors.append(value)
        return value
    if role == "direction":
        value = number % 5
    elif role in ("from", "to"):
        value = 1 + (number + (role == "to")) % 2
    elif role == "dimensions":
        value = 3
    elif width == 4:
        value = 0x10000 + number * 32 + position
    else:
        value = 0x70_0000_0000 + number * 4096 + position * 64
    one.roles[role] = value
    return value


def _members(layout: str) -> tuple[int, list[tuple[str, int, int]]]:
    size, text = LAYOUTS[layout]
    found = []
    for word in text.split():
        role, _, at = word.partition("@")
        name, _, bits = role.partition("/")
        found.append((name, int(bits or 8), int(at)))
    return size, found


def _function(line: str, layer: str, suffix: str, number: int) -> tuple[Expected, str, str]:
    words, _, result = line.partition("->")
    what, name, *parameters = words.split()
    kind, _, detail = what.partition(":")
    one = Expected(name + suffix, layer, kind, detail, result.strip() or "code")
    declared: list[str] = []
    passed: list[str] = []
    before: list[str] = []
    body: list[str] = []
    for i, word in enumerate(parameters):
        here = f"p{i}"
        if word == "-":
            declared.append(f"word {here}")
            passed.append("0xdeadull")
        elif word.endswith(":dim3"):
            role = word.removesuffix(":dim3")
            values = [_value(one, f"{role}_{axis}", number, 3 * i + j, 4) for j, axis in enumerate("xyz")]
            declared.append(f"dim3 {here}")
            passed.append(f"(dim3){{ {values[0]}u, {values[1]}u, {values[2]}u }}")
        elif word[0] in "&=":
            size, members = _members(word[1:].rstrip("!"))
            late = word.endswith("!")
            before.append(f"B{size} {here} = {{{{0}}}};")
            for j, (role, width, at) in enumerate(members):
                value = _value(one, role, number, 8 * i + j, width)
                kind_c = "word" if width == 8 else "unsigned"
                place = f"(char *){'' if late else '&'}{here} + {at}"
                (body if late else before).append(f"{{ {kind_c} v = {value}ull; memcpy({place}, &v, {width}); }}")
            declared.append(f"void *{here}" if word[0] == "&" else f"B{size} {here}")
            passed.append(f"&{here}" if word[0] == "&" else here)
        elif word[0] == "*":
            role, _, bits = word[1:].partition("/")
            width = int(bits or 8)
            declared.append(f"void *{here}")
            if role == "code":
                one.code = -30 - number % 20
                before.append(f"int {here} = 0;")
                body.append(f"*(int *){here} = failing ? {one.code} : 0;")
            else:
                value = _value(one, role, number, 8 * i, width)
                before.append(f"word {here} = 0;")
                body.append(f"{{ word v = {value}ull; memcpy({here}, &v, {width}); }}")
            passed.append(f"&{here}")
        else:
            role, _, bits = word.partition("/")
            width = int(bits or 8)
            if role == "text":
                declared.append(f"const char *{here}")
                passed.append(f'"kernel_{number}"')
                continue
            declared.append(f"{'word' if width == 8 else 'unsigned'} {here}")
            passed.append(f"{_value(one, role, number, 8 * i, width)}ull")
    returned = {"code": "int", "handle": "void *", "address": "void *", "void": "void"}[one.result]
    handle = 0x60_0000_0000 + number * 64
    if one.result == "handle":
        one.roles["pointer"] = handle
    answer = {
        "code": "return failing ? 2 : 0;",
        "handle": f"return failing ? 0 : (void *){handle}ull;",
        "address": "return failing ? 0 : (void *)0x1000;",
        "void": "",
    }[one.result]
    if one.result == "code":
        one.code = 2
    elif one.result == "void":
        one.code = 0
    elif not one.code:
        one.code = 1
    unused = "".join(f"(void)p{i};" for i in range(len(declared)))
    head = f"{returned} {one.name}({', '.join(declared) or 'void'})"
    stub = f"{head}\n{{ {unused} {' '.join(body)} {answer} }}\n"
    call = f"{head};\nstatic void call_{number}(void) {{ {' '.join(before)} {one.name}({', '.join(passed)}); }}\n"
    return one, stub, call


def build(folder: Path) -> tuple[Path, list[Expected]]:
    """Write and compile library and program; the program calls everything twice, the second time all fail."""
    expected: list[Expected] = []
    stubs = [HEAD, "int failing;\n"]
    calls = [HEAD]
    large = sorted({size for size, _ in LAYOUTS.values()})
    blocks = "".join(f"typedef struct {{ word w[{size // 8}]; }} B{size};\n" for size in large)
    stubs.append(blocks)
    calls.append(blocks)
    for layer, table in (("runtime", RUNTIME), ("driver", DRIVER), ("opencl", OPENCL)):
        for line in table.strip().splitlines():
            for suffix in SUFFIXES[layer]:
                one, stub, call = _function(line, layer, suffix, len(expected))
                expected.append(one)
                stubs.append(stub)
                calls.append(call)
    every = "".join(f"call_{i}(); " for i in range(len(expected)))
    calls.append(f"int main(void) {{ {every} failing = 1; {every} return 0; }}\n")
    (folder / "everything.c").write_text("".join(stubs))
    (folder / "caller.c").write_text("".join(calls))
    library, program = folder / "libeverything.so", folder / "caller"
    base = [compiler(), "-O1", "-fno-ipa-icf", "-o"]
    subprocess.run(
        [*base, str(library), "-shared", "-fPIC", str(folder / "everything.c")], check=True, capture_output=True
    )
    subprocess.run(
        [*base, str(program), str(folder / "caller.c"), f"-L{folder}", "-leverything", f"-Wl,-rpath,{folder}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return program, expected
