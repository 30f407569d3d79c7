"""What an exporter is, and the registry that the command line and users choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

from workbench.errors import BadSpec

if TYPE_CHECKING:
    from workbench.frames.view import RecordingView

__all__ = ("Exporter", "exporter", "exporters", "register")


class Exporter(Protocol):
    """Writes a recording in one file format."""

    @property
    def name(self) -> str:
        """Name that users type."""

    @property
    def suffix(self) -> str:
        """Usual file suffix, with the dot."""

    @property
    def meaning(self) -> str:
        """One line: what the format is and what opens it."""

    def write(self, recording: RecordingView, sink: BinaryIO, *, frame: str | None = None) -> None:
        """Write `recording` to `sink`.

        Parameters
        ----------
        frame : str or None
            Export this frame alone; None takes those that the format is made for.

        Raises
        ------
        MissingFrame
            There is nothing to export; the hint says what would record it.
        """


_REGISTRY: dict[str, Exporter] = {}


def register(one: Exporter) -> None:
    """Add an exporter; a second one of the same name is a programming error (ValueError)."""
    if one.name in _REGISTRY:
        raise ValueError(f"two exporters named {one.name!r}")
    _REGISTRY[one.name] = one


def exporters() -> tuple[Exporter, ...]:
    """All exporters, by name."""
    return tuple(_REGISTRY[name] for name in sorted(_REGISTRY))


def exporter(name: str) -> Exporter:
    """The exporter called `name`.

    Raises
    ------
    BadSpec
        No exporter has that name; the hint lists all.
    """
    try:
        return _REGISTRY[name]
    except KeyError:
        listed = "; ".join(f"{one.name} ({one.meaning})" for one in exporters())
        raise BadSpec(f"no export format is named {name!r}", f"formats: {listed}") from None
