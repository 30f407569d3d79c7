"""YAML with positions: every complaint names file, line and key, and an unknown key its nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from workbench.errors import BadSpec

__all__ = ("Entry", "read")


class Entry:
    """One value of a YAML file, with where it stands.

    Parameters
    ----------
    file : pathlib.Path
        The file, for messages.
    key : str
        The way to the value, as in ``claims[0].expected``; empty for the whole file.
    node : yaml.Node
        The value as parsed.
    """

    def __init__(self, file: Path, key: str, node: yaml.Node) -> None:
        self.file = file
        self.key = key
        self.node = node

    @property
    def line(self) -> int:
        """Line of the value, from 1."""
        return int(self.node.start_mark.line) + 1

    def fail(self, message: str, hint: str = "") -> NoReturn:
        """Complain about this value.

        Raises
        ------
        BadSpec
            Always.
        """
        subject = f"{self.key}: " if self.key else ""
        raise BadSpec(f"{self.file}, line {self.line}: {subject}{message}", hint)

    def value(self) -> Any:
        """The value as plain Python: text, numbers, truth values, None, lists and dicts with text keys."""
        loader = yaml.SafeLoader("")
        try:
            found = loader.construct_object(self.node, deep=True)
        except yaml.YAMLError as error:
            self.fail(getattr(error, "problem", None) or str(error))
        finally:
            loader.dispose()
        self._plain(found)
        return found

    def _plain(self, found: Any) -> None:
        if isinstance(found, dict):
            for name, inner in found.items():
                if not isinstance(name, str):
                    self.fail(f"the key {name!r} is not text", f'write "{name}" in quotes')
                self._plain(inner)
        elif isinstance(found, list):
            for inner in found:
                self._plain(inner)
        elif found is not None and not isinstance(found, str | int | float | bool):
            self.fail(f"a {type(found).__name__} is not a plain value", "write it in quotes")

    def text(self) -> str:
        """The value as text that is not empty."""
        found = self.value()
        if not isinstance(found, str) or not found.strip():
            quotes = "YAML reads on, off, yes and no as truth values; write it in quotes"
            self.fail(f"is {_kind(found)}, not text", quotes if isinstance(found, bool) else "")
        return found

    def number(self) -> float:
        """The value as a number."""
        found = self.value()
        if isinstance(found, bool) or not isinstance(found, int | float):
            hint = "YAML reads 1e-3 as text; write 1.0e-3" if isinstance(found, str) else ""
            self.fail(f"is {_kind(found)}, not a number", hint)
        return found

    def items(self) -> Iterator[Entry]:
        """The entries of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.fail(f"is {_kind(self.value())}, not a list")
        for index, node in enumerate(self.node.value):
            yield Entry(self.file, f"{self.key}[{index}]", node)

    def members(self, known: Sequence[str] | None = None) -> dict[str, Entry]:
        """The entries of a mapping, by key; `known` are the keys it may have (None: any).

        Raises
        ------
        BadSpec
            Not a mapping, a key that is not text, twice there or not known.
        """
        if not isinstance(self.node, yaml.MappingNode):
            self.fail(f"is {_kind(self.value())}, not a mapping of keys to values")
        found: dict[str, Entry] = {}
        for name_node, node in self.node.value:
            at_name = Entry(self.file, self.key, name_node)
            name = at_name.value()
            if not isinstance(name, str):
                at_name.fail(f"the key {name!r} is not text", f'write "{name}" in quotes')
            if name in found:
                at_name.fail(f"the key {name!r} is there twice")
            if known is not None and name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                at_name.fail(f"unknown key {name!r}", f"{hint}known: {', '.join(known)}")
            found[name] = Entry(self.file, f"{self.key}.{name}" if self.key else name, node)
        return found


def read(file: Path) -> Entry:
    """Parse a YAML file.

    Raises
    ------
    BadSpec
        The file cannot be read, is empty or is not YAML.
    """
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], n=1)
        raise BadSpec(f"there is no file {file}", f"did you mean {near[0]!r}?" if near else "") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSpec(f"cannot read {file}: {error}") from None
    try:
        node = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise BadSpec(f"{file}{where}: not YAML: {error.problem or error}") from None
    except yaml.YAMLError as error:
        raise BadSpec(f"{file}: not YAML: {error}") from None
    if node is None:
        raise BadSpec(f"{file} is empty")
    return Entry(file, "", node)


def _kind(found: Any) -> str:
    if found is None:
        return "empty"
    names = {bool: "a truth value", str: "text", list: "a list", dict: "a mapping"}
    return names.get(type(found), "a number")
