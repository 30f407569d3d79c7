"""Files of the public suite bpf_conformance: `-- asm`, `-- raw`, `-- mem`, `-- result`, `-- error`."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import BadSpec
from workbench.runtime.isa.assembler import assemble

__all__ = ("ConformanceCase", "parse_case", "read_cases")


@dataclass(frozen=True, slots=True)
class ConformanceCase:
    """One test: code, memory at r1 (its length in r2), and the result in r0 or the text of the error."""

    name: str
    code: bytes
    memory: bytes
    result: int
    error: str = ""


def parse_case(text: str, name: str) -> ConformanceCase | None:
    """The test in the text of a data file; None for one that states neither result nor error, as the suite skips it.

    Raises
    ------
    BadSpec
        A directive, number or instruction that cannot be understood.
    """
    parts: dict[str, list[str]] = {"asm": [], "raw": [], "mem": [], "result": [], "error": []}
    state = ""
    for raw in text.splitlines():
        line = raw.partition("#")[0].rstrip()
        if "--" in line:
            state = _section(line, name)
            continue
        if line.strip() and state:
            parts[state].append(line.strip())
    if not parts["result"] and not parts["error"]:
        return None
    try:
        words = [int(word, 0) for word in " ".join(parts["raw"]).split()]
        code = (
            struct.pack(f"<{len(words)}Q", *words) if words else assemble("\n".join(parts["asm"]))
        )
        memory = bytes(int(word, 16) for word in " ".join(parts["mem"]).split())
        result = int(parts["result"][-1], 0) if parts["result"] else 0
    except (ValueError, struct.error) as error:
        raise BadSpec(f"{name}: {error}", "numbers are decimal, or hexadecimal with 0x") from None
    error_text = parts["error"][-1] if parts["error"] else ""
    return ConformanceCase(name, code, memory, result, error_text) if code else None


def _section(line: str, name: str) -> str:
    for word in ("asm", "result", "mem", "raw"):
        if word in line:
            return word
    if "no register offset" in line or " c" in line:
        return ""
    if "error" in line:
        return "error"
    raise BadSpec(f"{name}: unknown directive {line!r}", "-- asm, raw, mem, result, error or c")


def read_cases(folder: Path) -> list[ConformanceCase]:
    """All tests of a checkout of the suite, by name.

    Raises
    ------
    BadSpec
        There are none in the folder.
    """
    place = folder / "tests" if (folder / "tests").is_dir() else folder
    files = sorted(place.glob("*.data"))
    if not files:
        raise BadSpec(
            f"{folder} holds no tests (*.data)",
            "name a checkout of https://github.com/Alan-Jowett/bpf_conformance",
        )
    cases = (parse_case(file.read_text(errors="replace"), file.stem) for file in files)
    return [case for case in cases if case is not None]
