"""From what the user writes to places in files: functions for probes, data objects for watchpoints.

A function is named `FUNCTION` (the program first, then its libraries), `LIBRARY:FUNCTION`, with `*` and `?` as a
pattern, `FUNCTION+0x10` (an instruction inside it), `0xADDRESS` (run-time address; for a file that is not running, the
address in the program), `LIBRARY:0xADDRESS` (address in that file) or `LIBRARY+0xOFFSET` (byte offset in that file).
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.collectors.modules import Module, Modules
from workbench.errors import BadSpec, UnknownSymbol
from workbench.frames.symbols.elffile import SYMBOL_DTYPE, BadElf, ElfFile
from workbench.frames.symbols.inlined import inlined
from workbench.frames.symbols.mappings import parse_maps

if TYPE_CHECKING:
    from workbench.collectors.base import Target
    from workbench.frames.symbols.elf import Kind, Symbol

__all__ = (
    "DataPlace",
    "Module",
    "Modules",
    "Place",
    "resolve_data",
    "resolve_function",
    "split_location",
)

_NUMBER = r"(?:0x[0-9a-fA-F]+|\d+)"
_PATTERN = re.compile(r"[*?]|\[[^\]]*\]")
_TLS, _IFUNC = 6, 10
_SHT_SYMTAB, _SHT_DYNSYM = 2, 11


@dataclass(frozen=True, slots=True)
class Place:
    """An instruction in a file.

    Attributes
    ----------
    path : str
        File as this process can open it; `module` is the same file as the target names it.
    file_offset : int
        Byte in the file: what a uprobe is attached to.
    vaddr : int
        Address in the file (before the load bias).
    symbol : str
        Name to show, the one that was asked for; `module+0x...` for bare addresses.
    size : int
        Bytes of the function from here to its end, 0 where unknown.
    address : int or None
        Run-time address; None while the file is not mapped.
    build_id : str
    """

    path: str
    file_offset: int
    vaddr: int
    symbol: str
    size: int
    address: int | None
    build_id: str
    module: str


@dataclass(frozen=True, slots=True)
class DataPlace:
    """A data object of a running process: `address` at run time, `size` in bytes, `type` its C type where known."""

    name: str
    address: int
    size: int
    type: str
    module: str


def split_location(text: str) -> tuple[str, str]:
    """Split `LIBRARY:REST` at the first single colon (`::` belongs to C++ names); LIBRARY is empty without one."""
    match = re.search(r"(?<!:):(?!:)", text)
    return (text[: match.start()], text[match.end() :]) if match else ("", text)


def _modules(target: Target | Modules | int | None) -> Modules:
    if isinstance(target, Modules):
        return target
    return Modules(target if target is None or isinstance(target, int) else target.pid)


def resolve_function(
    target: Target | Modules | int | None, text: str, *, warnings: list[str] | None = None
) -> list[Place]:
    """Places of a function, pattern or address.

    Parameters
    ----------
    target : Target, Modules, pid or None
        Whose files to look in; None is the whole machine, where a file must be named.
    text : str
        See the module's description.
    warnings : list of str, optional
        Receives what was left out and why (indirect functions of a pattern).

    Returns
    -------
    list of Place
        At least one; symbols that share an address appear once.

    Raises
    ------
    UnknownSymbol
        Nothing matches; the message lists the nearest names, and says so where the file is stripped.
    """
    notes = [] if warnings is None else warnings
    modules = _modules(target)
    library, name = split_location(text.strip())
    if not name:
        raise BadSpec(f"{text!r} names no function", "the form is FUNCTION or LIBRARY:FUNCTION")
    if re.fullmatch(_NUMBER, name) and (library or name.startswith("0x")):
        return [_at_address(modules, library, int(name, 0))]
    base, offset = name, 0
    if match := re.fullmatch(rf"(.+)\+({_NUMBER})", name):
        base, offset = match[1], int(match[2], 0)
        if not library and ("/" in base or ".so" in base or not _known(modules, base)):
            return [_place(modules.find_module(base), None, offset, f"{base}+{offset:#x}")]
    places: dict[tuple[str, int], Place] = {}
    for module, symbol in _functions(modules, library, base, notes):
        if offset and symbol.size and offset >= symbol.size:
            raise UnknownSymbol(
                f"{base} has {symbol.size} bytes; +{offset:#x} is outside",
                "give an offset inside the function",
            )
        try:
            vaddr = _implementation(module, symbol)
            shown = f"{base if base == symbol.name else symbol.name}" + (
                f"+{offset:#x}" if offset else ""
            )
            place = _place(module, vaddr + offset, None, shown, max(symbol.size - offset, 0))
        except UnknownSymbol as error:
            if not _PATTERN.search(base):
                raise
            notes.append(error.message)
            continue
        places.setdefault((place.path, place.file_offset), place)
    if not places:
        raise UnknownSymbol(f"{text!r} matches nothing that can be probed: {'; '.join(notes[:3])}")
    return list(places.values())


def _known(modules: Modules, name: str) -> bool:
    return any(module.symbols.find_name(name, "function") for module in modules)


def _functions(
    modules: Modules, library: str, name: str, notes: list[str]
) -> list[tuple[Module, Symbol]]:
    pattern = bool(_PATTERN.search(name))
    searched: list[Module] = []
    groups: list[list[Module]] = (
        [modules.find_modules(library)] if library else [[module] for module in modules]
    )
    for group in groups:
        found = []
        for module in group:
            searched.append(module)
            symbols = module.symbols
            hits = (
                symbols.match(name, "function") if pattern else symbols.find_name(name, "function")
            )
            found += [(module, symbol) for symbol in hits]
        if found:
            return found
    if not searched:
        modules.find_modules(library)
    raise _unknown(searched, library, name)


def _unknown(
    searched: list[Module], library: str, name: str, kind: str = "function"
) -> UnknownSymbol:
    where = (
        searched[0].path
        if library or len(searched) == 1
        else f"the program or its {len(searched) - 1} libraries"
    )
    if kind == "function" and inlined(searched[0].place, name):
        return UnknownSymbol(
            f"{name!r} was inlined away: {searched[0].path} has no function of its own for it, "
            "only copies in its callers",
            "probe a caller, or compile it with __attribute__((noinline))",
        )
    near: list[str] = []
    for module in searched:
        shown = (
            "" if module.main or library else module.path.rsplit("/", 1)[-1].split(".so")[0] + ":"
        )
        wanted: Kind = "object" if kind == "data object" else "function"
        near += [shown + one for one in module.symbols.nearest(name, 5, wanted)]
        if len(near) >= 5:
            break
    own = f"`nm {searched[0].path}` (its own) or " if searched[0].main else ""
    hint = (
        f"nearest: {', '.join(near[:5])}"
        if near
        else f"list them with {own}`nm -D {searched[0].path}`{' (what it exports)' if own else ''}"
    )
    # Debian strips every library; only the file that was asked for decides whether to talk about it.
    first = searched[0]
    if first.stripped:
        exported = len(first.symbols)
        hint += (
            f"\n  {first.path} is stripped: only its {exported} exported names can be found; addresses (0x...) and "
            f"offsets ({first.path.rsplit('/', 1)[-1]}+0x...) work, and so do all names once its debug symbols are "
            "installed (they are found by build id)"
        )
    return UnknownSymbol(f"no {kind} {name!r} in {where}", hint)


def _at_address(modules: Modules, library: str, address: int) -> Place:
    if library:
        module = modules.find_module(library)
        return _place(module, address, None, f"{module.path.rsplit('/', 1)[-1]}:{address:#x}")
    for module in modules:
        if module.mapping and module.mapping[0] <= address < module.mapping[1]:
            start, _, offset = module.mapping
            return _named_place(module, address - start + offset, address)
    module = modules.find_module("")
    offsets, found = module.symbols.vaddr_to_offset(np.array([address], np.uint64))
    if not found[0]:
        whose = f"process {modules.pid}" if modules.pid else module.path
        raise UnknownSymbol(
            f"{address:#x} lies in no executable mapping of {whose}",
            "see /proc/PID/maps; LIBRARY:0xADDRESS is an address in a file, LIBRARY+0xOFFSET a byte of it",
        )
    return _named_place(module, int(offsets[0]), address)


def _named_place(module: Module, offset: int, address: int) -> Place:
    symbols = module.symbols
    vaddr, found = symbols.offset_to_vaddr(np.array([offset], np.uint64))
    index = int(symbols.find_address(vaddr, "function")[0]) if found[0] else -1
    if index < 0:
        return _place(module, None, offset, f"{address:#x}")
    symbol = symbols[index]
    inside = int(vaddr[0]) - symbol.address
    return _place(
        module,
        None,
        offset,
        symbol.name + (f"+{inside:#x}" if inside else ""),
        symbol.size - inside,
    )


def _place(
    module: Module, vaddr: int | None, offset: int | None, shown: str, size: int = 0
) -> Place:
    """A place given by its address or by its offset in the file; it must be executable."""
    symbols = module.symbols
    if offset is None:
        offsets, found = symbols.vaddr_to_offset(np.array([vaddr], np.uint64))
        value = offset = int(offsets[0])
    else:
        vaddrs, found = symbols.offset_to_vaddr(np.array([offset], np.uint64))
        vaddr, value = int(vaddrs[0]), offset
    columns = symbols.columns
    start, length = columns["load_offset"], columns["load_filesz"]
    inside = (start <= value) & (value < start + length) & ((columns["load_flags"] & 1) != 0)
    if not found[0] or not inside.any() or vaddr is None:
        raise UnknownSymbol(
            f"{shown} is not in executable code of {module.path}",
            "offsets are bytes in the file (LIBRARY+0x...), addresses those of its symbol table (LIBRARY:0x...)",
        )
    address = None if module.bias is None else module.bias + vaddr
    return Place(module.place, offset, vaddr, shown, size, address, module.build_id, module.path)


# Indirect functions --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _raw_types(place: str, build_id: str) -> tuple[frozenset[int], frozenset[str]]:
    """Addresses of indirect functions, and names of thread-local objects."""
    indirect: set[int] = set()
    local: set[str] = set()
    try:
        with ElfFile(place) as elf:
            for section in elf.sections:
                if section.type not in (_SHT_SYMTAB, _SHT_DYNSYM) or section.link >= len(
                    elf.sections
                ):
                    continue
                data = elf.content(section)
                rows = np.frombuffer(data, SYMBOL_DTYPE, len(data) // SYMBOL_DTYPE.itemsize)
                kinds = rows["info"] & 15
                indirect.update(rows["value"][(kinds == _IFUNC) & (rows["shndx"] != 0)].tolist())
                names = elf.content(elf.sections[section.link])
                for at in rows["name"][kinds == _TLS].tolist():
                    local.add(names[at : max(names.find(b"\0", at), at)].decode("utf-8", "replace"))
    except (OSError, BadElf):
        pass
    return frozenset(indirect), frozenset(local)


def _implementation(module: Module, symbol: Symbol) -> int:
    """Address of the code that calls of `symbol` run: for an indirect function, what its resolver chose.

    The resolver runs once, at load; probing its address would show nothing of the calls. It may not be run by us, but
    where this process has the same library loaded, the choice was made already, for the same processor.
    """
    if symbol.address not in _raw_types(module.place, module.build_id)[0]:
        return symbol.address
    chosen = _own_choice(module, symbol.name)
    if chosen is None:
        similar = [
            n for n in module.symbols.nearest(f"__{symbol.name}", 3, "function") if n != symbol.name
        ]
        raise UnknownSymbol(
            f"{symbol.name} is an indirect function: the implementation is chosen when the library is loaded",
            f"probe the implementation by its own name{': ' + ', '.join(similar) if similar else ''} or by address",
        )
    return chosen


def _own_choice(module: Module, name: str) -> int | None:
    mapped = parse_maps(Path("/proc/self/maps").read_bytes())
    own = _own_libraries(tuple((start, path) for start, _, _, path in mapped)).get(module.build_id)
    if own is None or own.bias is None:
        return None
    try:
        library = ctypes.CDLL(own.place, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        address = ctypes.cast(getattr(library, name.split("@")[0]), ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None
    _, inside = own.symbols.vaddr_to_offset(
        np.array([max((address or 0) - own.bias, 0)], np.uint64)
    )
    return None if address is None or not inside[0] else address - own.bias


@lru_cache(maxsize=1)
def _own_libraries(mapped: tuple[tuple[int, str], ...]) -> dict[str, Module]:
    """Libraries of this process by build id; `mapped` is what they are as of now."""
    return {m.build_id: m for m in Modules(os.getpid()).mapped if m.build_id}


# Data ----------------------------------------------------------------------------------------------------------------


def resolve_data(target: Target | Modules | int, text: str) -> DataPlace:
    """Run-time address of a data object.

    Parameters
    ----------
    target : Target, Modules or pid
        The running process.
    text : str
        `SYMBOL`, `LIBRARY:SYMBOL`, `SYMBOL+8`, `0xADDRESS`; where debug information exists also `array[3]`,
        `object.field` and what is made of these.

    Raises
    ------
    UnknownSymbol
        No such object, or debug information is needed and missing.
    """
    modules = _modules(target)
    library, name = split_location(text.strip())
    if re.fullmatch(r"0x[0-9a-fA-F]+", name) and not library:
        return DataPlace(name, int(name, 16), 0, "", "")
    match = re.match(rf"([A-Za-z_$][\w$:]*)(.*?)(?:\+({_NUMBER}))?$", name)
    if match is None:
        raise BadSpec(
            f"{text!r} names no data object", "for example counter, table[3], state.hits, counter+8"
        )
    base, path, more = match[1], match[2].strip(), int(match[3] or "0", 0)
    module, symbol = _object(modules, library, base)
    if module.bias is None:
        raise UnknownSymbol(
            f"{base} has no address yet: {module.path} is not mapped",
            "attach once the library is loaded",
        )
    size, offset, type_name = symbol.size, 0, ""
    if path:
        from workbench.collectors.dwarf import member_of

        offset, size, type_name = member_of(
            module.place, module.symbols.debug_path, base, symbol.address, path
        )
    if more:
        if symbol.size and offset + more >= symbol.size:
            raise UnknownSymbol(
                f"{base} has {symbol.size} bytes; {path}+{more} is outside", "give a smaller offset"
            )
        size = max(size - more, 0)
        offset += more
    address = module.bias + symbol.address + offset
    return DataPlace(text.strip(), address, size, type_name, module.path)


def _object(modules: Modules, library: str, name: str) -> tuple[Module, Symbol]:
    searched = modules.find_modules(library) if library else list(modules)
    for module in searched:
        found = module.symbols.find_name(name, "object") or module.symbols.find_name(name, "any")
        if found:
            if len({symbol.address for symbol in found}) > 1:
                places = ", ".join(f"{symbol.address:#x}" for symbol in found[:5])
                raise UnknownSymbol(
                    f"{len(found)} objects of {module.path} are named {name!r}: at {places}",
                    f"give the run-time address of the one you mean (load bias {module.bias or 0:#x})",
                )
            return module, found[0]
        if name in _raw_types(module.place, module.build_id)[1]:
            raise UnknownSymbol(
                f"{name} is thread-local: every thread has its own, at an address of its own",
                "give the address (&variable printed by the thread you mean)",
            )
    raise _unknown(searched, library, name, "data object")
