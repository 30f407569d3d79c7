"""Names for addresses: building a symbol table, and looking up a million unique addresses in a warm cache.

Peers in the same run: llvm-symbolizer, addr2line and pyelftools, as far as they are installed. They get fewer
addresses, because they are slower; all numbers are rates.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.bench.result import BenchResult, Check, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from workbench.frames.symbols.elf import ElfSymbols
    from workbench.frames.symbols.mappings import Mappings

__all__ = ("DESCRIPTION", "largest_library", "run")

DESCRIPTION = "symbolizer: a table of a large library built, a million unique addresses named"
ADDRESSES = 1_000_000
LOAD_BIAS = 0x7F00_0000_0000
PID = 1
PEER_ADDRESSES = {"llvm-symbolizer": 2000, "addr2line": 100}
PEER_TIMEOUT = 120


def largest_library() -> Path:
    """torch's main library where torch is installed, else the largest shared library of this Python or the system."""
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin:
        library = Path(spec.origin).parent / "lib" / "libtorch_cpu.so"
        if library.is_file():
            return library
    import numpy

    packages = Path(numpy.__file__).parents[1]
    found = [path for path in packages.rglob("*.so*") if path.is_file()]
    for folder in ("/usr/lib", "/lib"):
        found += [path for path in Path(folder).glob("*-linux-gnu*/*.so*") if path.is_file()]
    return max(found, key=lambda path: path.stat().st_size).resolve()


def mapped(symbols: ElfSymbols) -> Mappings:
    """The library as if a process had mapped it."""
    from workbench.frames.symbols.mappings import Mappings

    page = 4095
    rows = [
        (int(vaddr) & ~page, (int(vaddr + size) + page) & ~page, int(offset) & ~page)
        for vaddr, size, offset in zip(
            *(symbols.columns[key] for key in ("load_vaddr", "load_filesz", "load_offset")),
            strict=True,
        )
    ]
    return Mappings.from_columns(
        {
            "time": [0] * len(rows),
            "pid": [PID] * len(rows),
            "start": [LOAD_BIAS + start for start, _, _ in rows],
            "end": [LOAD_BIAS + end for _, end, _ in rows],
            "offset": [offset for _, _, offset in rows],
            "path": [symbols.path] * len(rows),
            "build_id": [symbols.build_id] * len(rows),
        }
    )


def unique_addresses(symbols: ElfSymbols, count: int) -> NDArray[np.uint64]:
    """Distinct virtual addresses inside functions, in random order (fewer where the code is smaller)."""
    import numpy as np

    from workbench.frames.symbols.table import FUNCTION

    c = symbols.columns
    best = c["best"]
    functions = c["kind"][best] == FUNCTION
    starts, sizes = c["starts"][functions], (c["ends"] - c["starts"])[functions]
    random = np.random.default_rng(0)
    rows = random.integers(0, len(starts), 2 * count)
    inside = (random.random(len(rows)) * np.minimum(sizes[rows], 4096)).astype(np.uint64)
    distinct = np.unique(starts[rows] + inside)
    random.shuffle(distinct)
    return distinct[:count]


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _peer_rate(tool: str, library: Path, vaddrs: NDArray[np.uint64]) -> float | None:
    """Functions per second of a command-line symbolizer asked once, its start included; None without it."""
    from workbench.frames.symbols.lines import find_tool

    program = find_tool() if tool == "llvm-symbolizer" else shutil.which(tool)
    if program is None:
        return None
    flags = ["--functions=linkage", "--no-inlines"] if tool == "llvm-symbolizer" else ["-f"]
    some = [f"{vaddr:#x}" for vaddr in vaddrs[: PEER_ADDRESSES[tool]].tolist()]
    begin = time.perf_counter()
    try:
        subprocess.run(
            [program, *flags, "-e", str(library)],
            input="\n".join(some).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PEER_TIMEOUT,
            check=True,
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return len(some) / (time.perf_counter() - begin)


def _pyelftools_rate(library: Path, count: int = 20_000) -> float | None:
    """Symbols per second that pyelftools iterates."""
    from itertools import islice

    try:
        from elftools.elf.elffile import ELFFile
    except ImportError:
        return None
    with library.open("rb") as file:
        elf = ELFFile(file)
        section: Any = elf.get_section_by_name(".symtab") or elf.get_section_by_name(".dynsym")
        if section is None:
            return None
        begin = time.perf_counter()
        seen = len([symbol.name for symbol in islice(section.iter_symbols(), count)])
        return seen / (time.perf_counter() - begin)


def run() -> BenchResult:
    """`workbench bench symbols`."""
    library = largest_library()
    name = f"{library.name} ({library.stat().st_size / 1e6:.0f} MB)"
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as folder:
        return _measure(library, name, Path(folder))


def _measure(library: Path, name: str, folder: Path) -> BenchResult:
    from workbench.frames.symbols.elf import ElfSymbols
    from workbench.frames.symbols.store import SymbolStore
    from workbench.frames.symbols.symbolizer import Symbolizer

    # The first reading fills the page cache; after that it is the table that is measured, not the disk.
    symbols = ElfSymbols.open(library)
    index_time = min(_seconds(lambda: ElfSymbols.open(library)) for _ in range(3))
    per_half_million = index_time / max(len(symbols), 1) * 500_000
    vaddrs = unique_addresses(symbols, ADDRESSES)
    mappings = mapped(symbols)
    addresses = vaddrs + LOAD_BIAS

    with Symbolizer(mappings, lines=False, store=SymbolStore(folder)) as cold:
        cold_time = _seconds(lambda: cold.functions(PID, addresses))
    # A store of its own: what is warm is the cache on disk, not this process's memory.
    store = SymbolStore(folder)
    load_time = _seconds(lambda: store.get(str(library), symbols.build_id))
    with Symbolizer(mappings, lines=False, store=store) as warm:
        warm_time = min(_seconds(lambda: warm.functions(PID, addresses)) for _ in range(3))
        resolve_time = min(_seconds(lambda: warm.resolve(PID, addresses)) for _ in range(3))
    rate = len(vaddrs) / warm_time

    rows = [
        Row(f"symbols of {name}", float(len(symbols)), "symbols"),
        Row("table built", index_time, "s"),
    ]
    built = len(symbols) / index_time
    elftools = _pyelftools_rate(library)
    rows.append(
        Row("table built, rate", built, "symbols/s")
        if elftools is None
        else Row("table built, rate", built, "symbols/s", "pyelftools iterating", built / elftools)
    )
    rows += [
        Row("table from the cache on disk", load_time, "s"),
        Row(
            f"{len(vaddrs)} unique addresses, cold: index, names demangled",
            len(vaddrs) / cold_time,
            "addresses/s",
        ),
        Row("functions and names, warm cache", rate, "addresses/s"),
        Row("whole frames (resolve), warm cache", len(vaddrs) / resolve_time, "addresses/s"),
    ]
    for tool in PEER_ADDRESSES:
        peer = _peer_rate(tool, library, vaddrs)
        if peer is not None:
            rows.append(
                Row(
                    f"versus {tool}, one call, its start included",
                    rate,
                    "addresses/s",
                    tool,
                    rate / peer,
                )
            )
    return BenchResult(
        "symbols",
        tuple(rows),
        (
            Check.at_least("unique addresses per second from a warm cache", rate, 1e6),
            Check.at_most("seconds to build a table, per 500,000 symbols", per_half_million, 1.0),
        ),
    )
