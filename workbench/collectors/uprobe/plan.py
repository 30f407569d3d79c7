"""From a specification and a target to sites: where to attach, what to read there, which columns that makes."""

from __future__ import annotations

import dataclasses
import fnmatch
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.collectors.dwarf import debug_info
from workbench.collectors.resolve import Modules, Place, resolve_function
from workbench.collectors.uprobe.abi import (
    MAX_ARGUMENTS,
    STRING,
    Source,
    function_sources,
    operand_source,
)
from workbench.collectors.uprobe.instructions import instruction_class
from workbench.collectors.uprobe.options import MAX_STRINGS
from workbench.collectors.uprobe.types import VOID, CType, Signature
from workbench.errors import BadSpec, MissingCapability, UnknownSymbol
from workbench.frames.symbols.usdt import Mark, parse_operands, read_marks

if TYPE_CHECKING:
    from workbench.collectors.modules import Module
    from workbench.collectors.uprobe.options import Options

__all__ = ("Plan", "Site", "make_plan")

MAX_COLUMNS = 16
_CODE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Site:
    """One place with what is read there.

    `arguments` pairs a column name with its type and source; `refused` says why the kernel will not take the place.
    """

    place: Place
    function: str
    instruction_class: str
    refused: str = ""
    semaphore: int = 0
    arguments: tuple[tuple[str, CType, Source], ...] = ()
    result: CType | None = None
    at_start: bool = False
    """First instruction of a function: its caller's address is where a call leaves it."""


@dataclass(slots=True)
class Plan:
    """All sites of one collector, and notes on what was left out."""

    sites: list[Site]
    notes: list[str] = field(default_factory=list)

    @property
    def argument_slots(self) -> int:
        return max((len(site.arguments) for site in self.sites), default=0)

    @property
    def string_slots(self) -> int:
        strings = (sum(bool(s.flags & STRING) for *_, s in site.arguments) for site in self.sites)
        return min(max(strings, default=0), MAX_STRINGS)


def make_plan(options: Options, modules: Modules, backend: str = "kernel") -> Plan:
    """Resolve a specification.

    `backend` says who takes the probes: in user space every site gets class "jump", and what cannot be probed is found
    when it is attached.

    Raises
    ------
    UnknownSymbol, BadSpec, MissingCapability
        Nothing matches, or a declared argument cannot be read.
    """
    notes: list[str] = []
    if options.kind == "usdt":
        sites = _marks(options, modules, notes)
    else:
        places = resolve_function(modules, options.location, warnings=notes)
        if options.returns and any("+0x" in place.symbol for place in places):
            raise BadSpec(
                f"{options.text}: a return can be probed only from a function's first instruction",
                "leave the offset away, or leave return=yes away",
            )
        sites = _functions(options, places, notes)
    if backend == "userspace":
        sites = [dataclasses.replace(site, instruction_class="jump") for site in sites]
    else:
        sites = [_checked(site) for site in sites]
    notes += [f"{site.function}: not probed: {site.refused}" for site in sites if site.refused]
    kept = [site for site in sites if not site.refused]
    if not kept:
        raise UnknownSymbol(
            f"{options.text} matches nothing that can be probed: {'; '.join(notes[:3])}"
        )
    return Plan(_limited(kept, notes), notes)


def _functions(options: Options, places: list[Place], notes: list[str]) -> list[Site]:
    sites = []
    for place in places:
        signature = options.signature
        if (options.arguments or options.returns) and signature is None:
            signature = _known_signature(place)
        arguments: tuple[tuple[str, CType, Source], ...] = ()
        if signature is not None and options.arguments and options.entries:
            arguments = _arguments(
                place.symbol, signature, notes, strict=options.signature is not None
            )
        result = signature.result if signature is not None else None
        if result is not None and result.kind == "float" and options.returns:
            why = "floating point, in a vector register that probes do not see"
            if options.signature is not None:
                raise MissingCapability(
                    f"the result of {place.symbol} is {why}",
                    "leave the result type away: column result is 0",
                )
            notes.append(f"{place.symbol}: result left out: it is {why}")
        start = "0x" not in place.symbol
        sites.append(
            Site(place, place.symbol, "", arguments=arguments, result=result, at_start=start)
        )
    return sites


def _known_signature(place: Place) -> Signature | None:
    from workbench.frames.symbols.store import default_store

    symbols = default_store().get(place.module, place.build_id, [place.path])
    info = debug_info(place.path, symbols.debug_path if symbols else "")
    return info.signature(place.vaddr, place.symbol) if info is not None else None


def _arguments(
    function: str, signature: Signature, notes: list[str], *, strict: bool
) -> tuple[tuple[str, CType, Source], ...]:
    found: list[tuple[str, CType, Source]] = []
    for i, (parameter, source) in enumerate(
        zip(signature.parameters, function_sources(signature), strict=True)
    ):
        name = parameter.name or str(i)
        if isinstance(source, str):
            if strict:
                raise MissingCapability(
                    f"argument {name} of {function} cannot be read: {source}",
                    "declare only the parameters before it, or record with args=no",
                )
            notes.append(f"{function}: argument {name} left out: {source}")
            continue
        if len(found) == MAX_ARGUMENTS:
            notes.append(f"{function}: arguments after the {MAX_ARGUMENTS}th are left out")
            break
        found.append((name, parameter.type, source))
    return tuple(found)


def _marks(options: Options, modules: Modules, notes: list[str]) -> list[Site]:
    parts = options.location.split(":")
    provider, name = parts[-2], parts[-1]
    library = ":".join(parts[:-2])
    searched: list[Module] = modules.find_modules(library) if library else list(modules)
    known: dict[str, None] = {}
    sites: list[Site] = []
    for module in searched:
        try:
            marks = read_marks(module.place)
        except UnknownSymbol:
            if library:
                raise
            continue
        known.update(dict.fromkeys(f"{m.provider}:{m.name}" for m in marks))
        hits = [
            m
            for m in marks
            if fnmatch.fnmatchcase(m.provider, provider) and fnmatch.fnmatchcase(m.name, name)
        ]
        sites += [_mark(options, module, mark, notes) for mark in hits]
    if sites:
        return sites
    import difflib

    near = difflib.get_close_matches(f"{provider}:{name}", known, 5, 0.4)
    one = bool(library and searched)
    where = searched[0].path if one else "the program and its libraries"
    if not known:
        hint = (
            f"{where} {'has' if one else 'have'} no USDT marks at all; "
            f"{'it was' if one else 'they were'} built without them"
        )
    else:
        hint = (
            f"nearest: {', '.join(near)}" if near else f"marks there: {', '.join(list(known)[:10])}"
        )
    raise UnknownSymbol(f"no USDT mark {provider}:{name} in {where}", hint)


def _mark(options: Options, module: Module, mark: Mark, notes: list[str]) -> Site:
    symbols = module.symbols
    where, found = symbols.vaddr_to_offset(np.array([mark.address, mark.semaphore], np.uint64))
    shown = f"{mark.provider}:{mark.name}"
    if not found[0]:
        raise UnknownSymbol(f"mark {shown} of {module.path} points outside the file")
    address = None if module.bias is None else module.bias + mark.address
    place = Place(
        module.place, int(where[0]), mark.address, shown, 0, address, module.build_id, module.path
    )
    semaphore = int(where[1]) if mark.semaphore and found[1] else 0
    arguments: list[tuple[str, CType, Source]] = []
    if options.arguments:
        try:
            operands = parse_operands(
                mark.arguments, mark.machine, lambda text: _symbol(module, text)
            )
        except MissingCapability as error:
            operands = ()
            notes.append(f"{shown}: arguments left out: {error.message}")
        declared = options.signature.parameters if options.signature else ()
        if len(declared) > len(operands):
            raise BadSpec(
                f"{options.text} declares {len(declared)} arguments; {shown} has {len(operands)}"
            )
        for i, operand in enumerate(operands[:MAX_ARGUMENTS]):
            kind = CType(
                "integer", operand.size, operand.signed, "int" if operand.signed else "unsigned"
            )
            label = str(i)
            if i < len(declared):
                label = declared[i].name or label
                if declared[i].type.kind in ("string", "pointer"):
                    kind = declared[i].type
            source = operand_source(operand, mark.address, kind.kind == "string")
            arguments.append((label, kind, source))
    return Site(place, shown, "", semaphore=semaphore, arguments=tuple(arguments), result=VOID)


def _symbol(module: Module, name: str) -> int | None:
    found = module.symbols.find_name(name)
    return found[0].address if found else None


def _checked(site: Site) -> Site:
    """The site with the class of its first instruction."""
    try:
        with Path(site.place.path).open("rb") as file:
            file.seek(site.place.file_offset)
            code = file.read(_CODE_BYTES)
    except OSError:
        return dataclasses.replace(site, instruction_class="single-step")
    found, refused = instruction_class(code)
    return dataclasses.replace(site, instruction_class=found, refused=refused)


def _limited(sites: list[Site], notes: list[str]) -> list[Site]:
    """Hundreds of functions with arguments of their own would make hundreds of columns: number them instead."""
    names = {name for site in sites for name, *_ in site.arguments}
    if len(names) <= MAX_COLUMNS:
        return sites
    notes.append(
        f"{len(names)} argument names in {len(sites)} functions: columns are numbered instead, arg_0, arg_1, ..."
    )
    return [
        dataclasses.replace(
            site,
            arguments=tuple(
                (str(i), kind, source) for i, (_, kind, source) in enumerate(site.arguments)
            ),
        )
        for site in sites
    ]
