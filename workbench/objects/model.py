"""One model of a BPF object for both backends: programs, maps, types, licence and source lines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import MissingFrame, WorkbenchError
from workbench.objects.btf import PTR, STRUCT, VAR, Btf
from workbench.objects.btf_ext import BtfExt
from workbench.objects.build import built_object
from workbench.objects.compile import compile_file
from workbench.objects.elf import EM_BPF, BadElf, SectionFile

if TYPE_CHECKING:
    import numpy as np

__all__ = (
    "BpfObject",
    "MapDefinition",
    "ProgramDefinition",
    "SourceLine",
    "builtin",
    "compile",
    "open",
)

_SHF_EXECINSTR = 4


@dataclass(frozen=True, slots=True)
class ProgramDefinition:
    """A program in the object: its function name, ELF section (the attach hint) and instruction count."""

    name: str
    section: str
    instructions: int


@dataclass(frozen=True, slots=True)
class MapDefinition:
    """A map in `.maps`: numeric attributes as written, and the BTF ids of key and value (0 where absent)."""

    name: str
    attributes: dict[str, int]
    key_type: int
    value_type: int


@dataclass(frozen=True, slots=True)
class SourceLine:
    """Where an instruction comes from. `instruction` counts 8-byte slots from the start of its section."""

    section: str
    instruction: int
    file: str
    line: int
    text: str


class BpfObject:
    """A compiled BPF object file.

    Parameters
    ----------
    data : bytes
        Content of the ELF file.
    name : str
        For messages.

    Raises
    ------
    BadElf, BadBtf
        The file is damaged or not a BPF object.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.elf = SectionFile(data, name)
        if self.elf.machine != EM_BPF:
            raise BadElf(
                f"{name} is for machine {self.elf.machine}, not BPF", "compile it with -target bpf"
            )

    def __repr__(self) -> str:
        programs = ", ".join(f"{p.name} ({p.section})" for p in self.programs)
        return f"<BPF object {self.name}: programs {programs or 'none'}; maps {', '.join(self.maps) or 'none'}>"

    @cached_property
    def btf(self) -> Btf:
        """Types of the object."""
        section = self.elf.section(".BTF")
        if section is None:
            raise WorkbenchError(f"{self.name} has no BTF", "compile it with clang -g")
        return Btf(section.data, self.name)

    @cached_property
    def license(self) -> str:
        """Content of the `license` section."""
        section = self.elf.section("license")
        return section.data.rstrip(b"\0").decode("utf-8", "replace") if section else ""

    @cached_property
    def programs(self) -> tuple[ProgramDefinition, ...]:
        """Global functions in named executable sections, in file order."""
        found = []
        for symbol in self.elf.symbols:
            if symbol.type != 2 or symbol.binding != 1 or symbol.section >= len(self.elf.sections):
                continue
            section = self.elf.sections[symbol.section]
            if section.flags & _SHF_EXECINSTR and section.name != ".text":
                found.append(
                    (symbol.section, symbol.value, symbol.name, section.name, symbol.size // 8)
                )
        return tuple(ProgramDefinition(*entry[2:]) for entry in sorted(found))

    @cached_property
    def maps(self) -> dict[str, MapDefinition]:
        """Maps declared in `.maps`, by name."""
        found = {}
        for name, (_offset, number) in self.btf.variables(".maps").items():
            attributes, types = {}, {"key": 0, "value": 0}
            for member in self.btf.resolve(number).members:
                pointed = self.btf.resolve(member.type)
                if pointed.kind != PTR:
                    continue
                if member.name in types:
                    types[member.name] = pointed.target
                else:
                    attributes[member.name] = self.btf.resolve(pointed.target).count
            found[name] = MapDefinition(name, attributes, types["key"], types["value"])
        return found

    def globals(self, section: str) -> dict[str, tuple[int, int]]:
        """Global variables of `.rodata`, `.data` or `.bss`: name -> (byte offset, BTF type).

        clang leaves the offsets in BTF at zero; the ELF symbol table has them.
        """
        index = next((s.index for s in self.elf.sections if s.name == section), -1)
        offsets = {s.name: s.value for s in self.elf.symbols if s.section == index and s.type == 1}
        variables = self.btf.variables(section).items()
        return {name: (offsets[name], number) for name, (_, number) in variables if name in offsets}

    @property
    def struct_ops(self) -> tuple[str, ...]:
        """Names of the object's struct_ops variables: sched_ext schedulers and the like; the kernel alone runs them."""
        return tuple(sorted(self.globals(".struct_ops")))

    def record_dtype(self, ring: str, struct: str = "") -> np.dtype[np.void]:
        """Layout of the records of `ring`, from the global `const struct X *_schema_RING`, or of a struct by its name.

        Raises
        ------
        MissingFrame
            The object publishes no such schema.
        """
        if struct:
            named = self.btf.find(STRUCT, struct)
            if named is None:
                raise MissingFrame(
                    f"{self.name} has no struct {struct!r}",
                    "clang leaves a struct out of the BTF that only a local variable has: "
                    "publish it with PUBLISH(ring, struct)",
                )
            return self.btf.dtype(named.id)
        variable = self.btf.find(VAR, f"_schema_{ring}")
        if variable is None:
            published = [
                t.name[8:]
                for t in self.btf.types
                if t.kind == VAR and t.name.startswith("_schema_")
            ]
            raise MissingFrame(
                f"{self.name} publishes no record layout for ring {ring!r}",
                f"it publishes: {', '.join(published) or 'none'}; declare one with PUBLISH(ring, struct)",
            )
        return self.btf.dtype(self.btf.resolve(variable.target).target)

    def load(self, backend: str = "auto", **options: Any) -> Any:
        """Load into the kernel, into user space or (auto) where it can run; see `workbench.host.backend.load`."""
        from importlib import import_module  # the room that knows both backends lies above this one

        return import_module("workbench.host.backend").load(self, backend, **options)

    def verify(self, **options: Any) -> Any:
        """Verify every program for user space: verdicts by name, `.frame` for all; see `workbench.runtime.verify`."""
        from importlib import import_module

        return import_module("workbench.runtime.verify").verify(self, **options)

    @cached_property
    def lines(self) -> tuple[SourceLine, ...]:
        """Source line of every instruction that has one, from `.BTF.ext`."""
        section = self.elf.section(".BTF.ext")
        if section is None:
            return ()
        return tuple(
            SourceLine(where, one.offset // 8, one.file, one.line, one.text)
            for where, lines in BtfExt.parse(section.data, self.btf, self.name).lines.items()
            for one in lines
        )


def open(path: Path | str) -> BpfObject:
    """Open a BPF object file (`x.bpf.o`).

    Raises
    ------
    BadElf
        Not a BPF object, or unreadable.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadElf(
            f"cannot read {path}: {error.strerror}", "give the path of a BPF object (.o)"
        ) from error
    return BpfObject(data, path.name)


def compile(path: Path | str, **options: Any) -> BpfObject:
    """Compile a BPF C file and open the result; see `workbench.objects.compile.compile_file`."""
    compiled = open(compile_file(path, **options))
    # The cache names its file by the content as well, which tells a reader nothing.
    return BpfObject(
        compiled.data, f"{Path(path).name.removesuffix('.c').removesuffix('.bpf')}.bpf.o"
    )


def builtin(name: str) -> BpfObject:
    """One of the project's own objects, as built into the package.

    Raises
    ------
    BadElf
        It was not built; the hint says how.
    """
    path = built_object(name)
    if not path.exists():
        raise BadElf(
            f"the BPF object {name!r} is not built for this architecture",
            "run `python -m workbench.objects.build` in a checkout (needs clang)",
        )
    return open(path)
