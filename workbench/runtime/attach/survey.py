"""How many exported functions of a file can be probed by a jump, and why the others cannot."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workbench.frames.symbols.elffile import SYMBOL_DTYPE, ElfFile
from workbench.runtime.attach.arena import Arena
from workbench.runtime.attach.relocate import JUMP, Unjumpable, branch_targets, displaced, plan

__all__ = ("Survey", "survey")

_DYNSYM = 11
_FUNCTION, _RESOLVER = 2, 10
_BEYOND = 16
_FAR = 1 << 30


@dataclass(frozen=True, slots=True)
class Survey:
    """Exported functions of one file, each address once.

    Attributes
    ----------
    functions, jumpable : int
        How many there are, and how many take a jump.
    resolvers : int
        Symbols that choose an implementation (STT_GNU_IFUNC), not counted: the implementation is probed.
    refused : dict of str to int
        Reason -> number.
    """

    path: str
    functions: int
    jumpable: int
    resolvers: int
    refused: dict[str, int]

    @property
    def share(self) -> float:
        """Jumpable part, 0 to 1."""
        return self.jumpable / self.functions if self.functions else 1.0


def _exported(elf: ElfFile) -> tuple[list[tuple[int, int]], int]:
    """(address, size) of exported functions, and the number of resolvers."""
    found: dict[int, int] = {}
    resolvers = set()
    for section in elf.sections:
        if section.type == _DYNSYM:
            data = elf.content(section)
            rows = np.frombuffer(data, SYMBOL_DTYPE, len(data) // SYMBOL_DTYPE.itemsize)
            rows = rows[(rows["shndx"] != 0) & (rows["size"] > 0) & (rows["info"] >> 4 != 0)]
            for row in rows:
                kind = int(row["info"]) & 15
                if kind == _FUNCTION:
                    found[int(row["value"])] = max(
                        int(row["size"]), found.get(int(row["value"]), 0)
                    )
                elif kind == _RESOLVER:
                    resolvers.add(int(row["value"]))
    return sorted(found.items()), len(resolvers)


def survey(path: str | Path) -> Survey:
    """Plan and relocate a probe of every exported function of an ELF file, without running it.

    Raises
    ------
    BadElf
    OSError
    """
    with ElfFile(path) as elf:
        functions, resolvers = _exported(elf)
        loads = elf.loads
        images = [
            (int(one["vaddr"]), elf.read(int(one["offset"]), int(one["filesz"]), "segment"))
            for one in loads
            if one["flags"] & 1
        ]
    room = Arena(_FAR, _FAR + (1 << 20), _FAR + (1 << 21))
    refused: Counter[str] = Counter()
    for address, size in functions:
        image = next(
            ((start, data) for start, data in images if start <= address < start + len(data)), None
        )
        if image is None:
            refused["it is not in an executable segment"] += 1
            continue
        start, data = image
        code = data[address - start : address - start + size + _BEYOND]
        try:
            moved = plan(
                code, address, size, targets=branch_targets(code[:size], address), need=JUMP
            )
            displaced(moved, room.code)
        except Unjumpable as error:
            refused[str(error)] += 1
    return Survey(
        str(path),
        len(functions),
        len(functions) - sum(refused.values()),
        resolvers,
        dict(refused.most_common()),
    )
