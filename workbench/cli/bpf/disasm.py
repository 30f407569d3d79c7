"""`workbench bpf disasm FILE [PROGRAM]`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.objects.linked import LinkedObject, LinkedProgram

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument("object", metavar="FILE", help="BPF object (.o), or C source (.bpf.c)")
    parser.add_argument("program", metavar="PROGRAM", nargs="?", help="this program only")
    parser.add_argument("--lines", action="store_true", help="C lines between the instructions")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Print the linked code; text can be assembled again."""
    from workbench.cli.bpf.objects import check_programs, no_object_is_bad_usage, opened
    from workbench.objects.link import link

    obj = opened(arguments.object)
    check_programs(obj, [arguments.program] if arguments.program else [])
    with no_object_is_bad_usage():
        linked = link(obj)
    chosen = [arguments.program] if arguments.program else list(linked.programs)
    programs = [_rows(linked.programs[name], linked, arguments.lines) for name in chosen]
    if arguments.json:
        print(json.dumps({"object": arguments.object, "programs": programs}))
        return 0
    for number, program in enumerate(programs):
        print(f"{'' if number == 0 else chr(10)}; {program['name']}  {program['section']}")
        _print(program, arguments.lines)
    return 0


def _rows(program: LinkedProgram, linked: LinkedObject, lines: bool) -> dict[str, Any]:
    from workbench.runtime.isa import decode_slots, text_of

    maps = [one.name for one in linked.maps]
    functions = {one.start: one.name for one in program.functions}
    line_at = {line.instruction: line for line in program.lines} if lines else {}
    rows = []
    for slot, one in enumerate(decode_slots(program.code)):
        if one is None:
            continue
        row: dict[str, Any] = {
            "slot": slot,
            "code": program.code[8 * slot : 8 * (slot + one.slots)].hex(),
            "text": text_of(one, slot, maps, functions),
        }
        target = one.target(slot) if one.is_jump else -1
        if target >= 0:
            row["target"] = target
        if slot in functions:
            row["function"] = functions[slot]
        if slot in line_at:
            line = line_at[slot]
            row |= {"file": line.file, "line": line.line, "source": line.text.strip()}
        rows.append(row)
    return {
        "name": program.name,
        "section": program.section,
        "type": program.type,
        "maps": maps,
        "instructions": rows,
    }


def _print(program: dict[str, Any], lines: bool) -> None:
    before = ("", 0)
    for row in program["instructions"]:
        if "function" in row:
            print(f"{row['function']}:")
        if lines and "line" in row and (row["file"], row["line"]) != before:
            before = row["file"], row["line"]
            print(f"; {row['source'] or row['file']}  ({row['file']}:{row['line']})")
        target = f"  ; to {row['target']}" if "target" in row else ""
        print(f"{row['slot']:5}: {row['text']}{target}")
