"""Addresses of a source line: the DWARF line table of a file, versions 2 to 5, by pyelftools."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from workbench.errors import UnknownSymbol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workbench.collectors.modules import Module

__all__ = ("line_ranges", "split_line")

_LINE = re.compile(r"(?P<file>.*[^:]):(?P<line>[1-9]\d*)")
_NEAR = 5  # lines that a message names
# What pyelftools raises on damaged input beside its own errors.
_DAMAGE = (
    OSError, LookupError, ValueError, AttributeError, AssertionError, TypeError, RecursionError, OverflowError,
    NotImplementedError, MemoryError,
)  # fmt: skip


def split_line(text: str) -> tuple[str, int] | None:
    """`FILE:LINE` (a decimal number) as file and number; None for any other text.

    >>> split_line("src/shapes.c:42"), split_line("libc:malloc"), split_line("a.out:0x10")
    (('src/shapes.c', 42), None, None)
    """
    match = _LINE.fullmatch(text.strip())
    return (match["file"], int(match["line"])) if match else None


def line_ranges(module: Module, file: str, line: int) -> list[tuple[int, int]]:
    """Addresses in `module`'s file (before the load bias) of the code of a source line.

    Parameters
    ----------
    module : Module
        Whose debug information is read; that of its separate debug file, where it has one.
    file : str
        Path of the source, or its last parts: ``shapes.c`` and ``src/shapes.c`` both name ``/build/src/shapes.c``.
    line : int

    Returns
    -------
    list of (int, int)
        First address and the one after the last, ascending, adjacent ones joined.

    Raises
    ------
    UnknownSymbol
        No debug information, no such source, or no code on that line; names the nearest lines that have code.
    """
    source = module.symbols.debug_path or module.place
    rows = _rows(str(source), file)
    if rows is None:
        raise UnknownSymbol(
            f"{module.path} has no line information", "compile it with -g, or name a function"
        )
    if not rows:
        raise UnknownSymbol(
            f"{module.path} has no code of a source {file!r}",
            "the name, or the end of the path, as the compiler was given it",
        )
    found = sorted((low, high) for number, low, high in rows if number == line)
    if not found:
        near = sorted({number for number, _, _ in rows}, key=lambda n: (abs(n - line), n))[:_NEAR]
        raise UnknownSymbol(
            f"{file}:{line} has no code of its own in {module.path}",
            f"lines near it that have: {', '.join(map(str, sorted(near)))}",
        )
    joined = [found[0]]
    for low, high in found[1:]:
        if low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined


@lru_cache(maxsize=16)
def _rows(path: str, file: str) -> tuple[tuple[int, int, int], ...] | None:
    """(line, low, high) of every stretch of code of a source; None where there is no line information."""
    from elftools.common.exceptions import DWARFError, ELFError
    from elftools.elf.elffile import ELFFile

    wanted = PurePosixPath(file).parts
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 - pyelftools reads while it walks
            elf = ELFFile(stream)
            if not elf.has_dwarf_info(strict=True):
                return None
            return tuple(_walk(elf.get_dwarf_info(), wanted))
    except (ELFError, DWARFError, *_DAMAGE) as error:
        raise UnknownSymbol(
            f"the line information of {path} cannot be read: {error}", "name a function instead"
        ) from error


def _walk(dwarf: Any, wanted: tuple[str, ...]) -> Iterator[tuple[int, int, int]]:
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        files = {number for number, name in _files(unit, program) if _ends_with(name, wanted)}
        if not files:
            continue
        before = None
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if before is not None and before.address < state.address and before.file in files:
                yield int(before.line), int(before.address), int(state.address)
            before = None if state.end_sequence else state


def _files(unit: Any, program: Any) -> Iterator[tuple[int, str]]:
    """Numbers, as the line program counts them, and paths of a unit's sources."""
    header = program.header
    version = header["version"]
    folder = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
    top = _text(folder.value) if folder else ""
    folders = [_text(one) for one in header["include_directory"]]
    if version < 5:
        folders = [top, *folders]
    for number, one in enumerate(header["file_entry"], 0 if version >= 5 else 1):
        at = one["dir_index"]
        parent = folders[at] if at < len(folders) else ""
        yield number, str(PurePosixPath(top) / parent / _text(one["name"]))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _ends_with(path: str, wanted: tuple[str, ...]) -> bool:
    return bool(wanted) and PurePosixPath(path).parts[-len(wanted) :] == wanted
