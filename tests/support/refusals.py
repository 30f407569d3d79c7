"""What every refusal of a damaged file has to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from workbench.errors import WorkbenchError

__all__ = ("says_what_is_wrong",)

#: Texts of struct.error, IndexError, KeyError, OverflowError, UnicodeError: they say what Python noticed, not the user.
_PYTHON = (
    "unpack", "pack_into", "requires a buffer", "index out of range", "out of range for", "cannot fit 'int'",
    "too large to convert", "codec can't", "NoneType", "must be in range", "argument out of range",
)  # fmt: skip


@contextmanager
def says_what_is_wrong() -> Iterator[None]:
    """Errors within are deliberate ones, in the project's words, with a hint; those pass (pytest.raises sees them)."""
    try:
        yield
    except WorkbenchError as error:
        assert error.hint, error.message
        assert not any(text in error.message for text in _PYTHON), error.message
        assert " " in error.message, f"a KeyError's text: {error.message}"
        raise
