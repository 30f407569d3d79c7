"""Compiled code as bytes: position-independent, without relocations, the same in every process."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("Blob", "Symbol")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function within the blob, for profilers: its name, byte offset and size."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Blob:
    """Code of one program.

    Attributes
    ----------
    code : bytes
        To be mapped read-exec at a page boundary, anywhere.
    entry : int
        Byte offset of `uint64_t program(void *ctx, struct wb_run *run)`.
    machine : str
        `x86_64` or `aarch64`.
    tier : str
        `quick` or `optimised`.
    vectors : bool
        It uses vector registers, which a probe would have to save.
    symbols : tuple of Symbol
    """

    code: bytes
    entry: int
    machine: str
    tier: str
    vectors: bool
    symbols: tuple[Symbol, ...] = ()
