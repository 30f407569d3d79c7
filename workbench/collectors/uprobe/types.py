"""C types and function signatures, as far as probe arguments need them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ("POINTER", "VOID", "CType", "Parameter", "Signature")

Kind = Literal["integer", "bool", "char", "pointer", "string", "enum", "float", "void", "aggregate"]


@dataclass(frozen=True, slots=True)
class CType:
    """A C type by what a register holds of it.

    Attributes
    ----------
    kind : str
        ``string`` is a pointer to char, read as text; ``aggregate`` a struct or union passed by value.
    size : int
        Bytes.
    signed : bool
    name : str
        As C writes it.
    """

    kind: Kind
    size: int
    signed: bool
    name: str

    @property
    def dtype(self) -> str:
        """dtype of a frame column that holds it."""
        if self.kind == "string":
            return "str"
        return "int64" if self.signed else "uint64"

    @property
    def unit(self) -> str:
        """Unit of that column."""
        return "address" if self.kind == "pointer" else ""

    def named(self, name: str) -> CType:
        """The same type under another name."""
        return replace(self, name=name)


VOID = CType("void", 0, False, "void")
POINTER = CType("pointer", 8, False, "void *")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a function; `name` is empty where the declaration gives none."""

    name: str
    type: CType


@dataclass(frozen=True, slots=True)
class Signature:
    """Parameters and result of a function; `result` is None where it was not declared."""

    parameters: tuple[Parameter, ...]
    result: CType | None = None
    variadic: bool = False

    def __str__(self) -> str:
        inside = ", ".join(f"{p.type.name} {p.name}".strip() for p in self.parameters)
        inside += ", ..." if self.variadic else ""
        return f"({inside})" + (f"->{self.result.name}" if self.result else "")
