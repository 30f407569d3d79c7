"""A program ready to run: every relocation applied, maps named by index. What `workbench.objects.link` makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.objects.btf import Btf

__all__ = (
    "Function",
    "GlobalVariable",
    "Line",
    "LinkedMap",
    "LinkedObject",
    "LinkedProgram",
    "Unresolved",
)


@dataclass(frozen=True, slots=True)
class LinkedMap:
    """A map that the programs of an object share; also each global data section, as an array of one element.

    Attributes
    ----------
    name : str
        As declared; `.rodata`, `.data`, `.bss` (or `.rodata.str1.1` ...) for global data.
    type, key_size, value_size, max_entries, flags : int
        Numbers of the kernel's `enum bpf_map_type` and of BPF_F_*.
    key_type, value_type : int
        BTF type ids in the object; 0 where there is none.
    initial : bytes
        Global data: the first content. Empty otherwise.
    read_only : bool
        Programs may read it only (`.rodata`); its content is known to the verifier.
    inner : LinkedMap or None
        Map-in-map: the shape of an inner map.
    values : tuple of (int, str)
        Map-in-map and program arrays: (index, name of the map or program) set at load.
    pinning : int
        1 = shared by name within a namespace (LIBBPF_PIN_BY_NAME).
    extra : int
        The kernel's `map_extra`: the number of hash functions of a bloom filter; 0 for its default.
    """

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    key_type: int = 0
    value_type: int = 0
    initial: bytes = b""
    read_only: bool = False
    inner: LinkedMap | None = None
    values: tuple[tuple[int, str], ...] = ()
    pinning: int = 0
    extra: int = 0


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a program: `start` and `count` in 8-byte slots; BTF id of its FUNC (0 = none)."""

    name: str
    start: int
    count: int
    type: int = 0
    is_global: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """Source of the instructions from slot `instruction` on."""

    instruction: int
    file: str
    line: int
    column: int
    text: str


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An instruction that stands for something this target lacks: a CO-RE relocation or a weak kernel function.

    The code has a call to an impossible helper there (as libbpf puts it), which no verifier accepts; it is harmless
    only where it cannot be reached, after a check that the thing exists. `message` says what is missing.
    """

    instruction: int
    message: str


@dataclass(frozen=True, slots=True)
class LinkedProgram:
    """A program with the subprograms that it calls, as RFC 9669 code.

    Maps are named by index into `LinkedObject.maps`: LD_IMM64 with src_reg 5 (BPF_PSEUDO_MAP_IDX) for the map, 6
    (BPF_PSEUDO_MAP_IDX_VALUE, next slot's imm = offset) for an address in its value. Calls to subprograms are
    BPF_PSEUDO_CALL (src_reg 1), callback addresses BPF_PSEUDO_FUNC (src_reg 4), both relative in slots.

    Attributes
    ----------
    name, section : str
        Function name and ELF section (the attach hint).
    type : str
        Program type in libbpf's words: kprobe, tracepoint, raw_tracepoint, perf_event, tracing, xdp, socket_filter,
        sched_cls, syscall, lsm, ...
    code : bytes
        Main function first; 8 bytes a slot, little endian.
    functions : tuple of Function
        The main function first.
    lines : tuple of Line
        By ascending instruction.
    attach_type : str
        Expected attach type without BPF_, in lower case (`trace_uprobe_multi`); empty where there is none.
    sleepable : bool
        The program may take page faults.
    unresolved : tuple of Unresolved
        Instructions that must not be reached, by ascending instruction.
    """

    name: str
    section: str
    type: str
    code: bytes
    functions: tuple[Function, ...]
    lines: tuple[Line, ...] = ()
    attach_type: str = ""
    sleepable: bool = False
    unresolved: tuple[Unresolved, ...] = ()


@dataclass(frozen=True, slots=True)
class GlobalVariable:
    """A variable of a data section: which map (index), byte offset and BTF type id."""

    name: str
    map: int
    offset: int
    type: int


@dataclass(frozen=True, slots=True)
class LinkedObject:
    """What both the runtime and tools work on. `maps` are in the order of the indexes in the code.

    `btf` holds the types that type ids of maps, functions and variables mean; None where the object has none. `target`
    holds those that CO-RE relocations were resolved against (of the kernel, or of user space's platform) where they
    were given: the types behind the kernel pointers of helpers and tracepoints.
    """

    name: str
    license: str
    programs: dict[str, LinkedProgram]
    maps: tuple[LinkedMap, ...]
    variables: dict[str, GlobalVariable]
    btf: Btf | None = field(default=None, repr=False, compare=False)
    target: Btf | None = field(default=None, repr=False, compare=False)
