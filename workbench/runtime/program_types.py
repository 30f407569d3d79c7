"""What each program type may see: its context, helpers and return values."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("ContextRules",)


@dataclass(frozen=True, slots=True)
class ContextRules:
    """Rules of one program type."""

    name: str
