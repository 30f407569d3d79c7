"""Objects without libbpf: apply every relocation of a BPF object and give its programs and maps, ready to run.

What clang emits (kernel Documentation/bpf/llvm_reloc.rst and btf.rst) is resolved as libbpf does; nothing is loaded
and no privilege is needed. As with libbpf, addresses that initialise variables (`const char *names[] = {"a"}`) are
not resolved: a program that follows one is refused by the verifier, for it has a number there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.objects.elf import BadElf
from workbench.objects.link_code import CodeLinker
from workbench.objects.link_maps import build_maps
from workbench.objects.linked import LinkedObject
from workbench.objects.sections import section_kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workbench.objects.btf import Btf
    from workbench.objects.elf import Symbol
    from workbench.objects.model import BpfObject

__all__ = ("link",)

_SHF_EXECINSTR = 4
_FUNCTION, _LOCAL = 2, 0


def link(
    obj: BpfObject,
    *,
    btf: Btf | None = None,
    constants: Mapping[str, int | bool] | None = None,
    map_sizes: Mapping[str, int] | None = None,
    programs: Iterable[str] | None = None,
) -> LinkedObject:
    """Link a BPF object.

    Parameters
    ----------
    obj : BpfObject
    btf : Btf, optional
        Types that CO-RE relocations are resolved against. By default the running kernel's, read from
        /sys/kernel/btf/vmlinux when a program needs them; `obj.btf` keeps the layout that the source declares.
    constants : dict, optional
        Values of `const volatile` knobs by name.
    map_sizes : dict, optional
        max_entries (bytes for rings) by map name.
    programs : iterable of str, optional
        Link only these; by default all but those whose section begins with `?`.

    Raises
    ------
    BadElf, BadBtf
        The object is damaged, or not what clang emits.
    MissingCapability
        A program needs a kernel symbol or a kernel configuration value, which is named; or CO-RE relocations need
        types and this kernel publishes none.
    AmbiguousRelocation
        Several types of the target fit a CO-RE relocation and disagree.
    WorkbenchError
        `constants`, `map_sizes` or `programs` names what the object lacks.
    """
    table = build_maps(obj, constants or {}, map_sizes or {})
    linker = CodeLinker(obj, table, btf)
    symbols = _program_symbols(obj)
    wanted = None if programs is None else list(programs)
    if unknown := [name for name in wanted or () if name not in symbols]:
        raise WorkbenchError(
            f"{obj.name} has no program named {', '.join(map(repr, unknown))}",
            f"it has: {', '.join(symbols) or 'none'}",
        )
    made = {}
    for name, symbol in symbols.items():
        if wanted is not None and name not in wanted:
            continue
        kind = section_kind(obj.elf.sections[symbol.section].name)
        if wanted is not None or kind.autoload:
            made[name] = linker.program(symbol, kind)
    if not table.maps and not symbols:
        raise BadElf(
            f"{obj.name} has neither programs nor maps",
            'give the object that clang made of C with SEC("uprobe") or the like',
        )
    has_btf = obj.elf.section(".BTF") is not None
    return LinkedObject(
        obj.name,
        obj.license,
        made,
        tuple(table.maps),
        table.variables,
        obj.btf if has_btf else None,
        btf,
    )


def _program_symbols(obj: BpfObject) -> dict[str, Symbol]:
    """Functions that others may see, in sections that name a program type, in file order."""
    found = []
    for symbol in obj.elf.symbols:
        if symbol.type != _FUNCTION or symbol.binding == _LOCAL:
            continue
        if not 0 < symbol.section < len(obj.elf.sections):
            continue
        section = obj.elf.sections[symbol.section]
        if section.flags & _SHF_EXECINSTR and section.name != ".text":
            found.append(symbol)
    found.sort(key=lambda s: (s.section, s.value))
    return {symbol.name: symbol for symbol in found}
