"""The one grammar of `--collect`, of `%%wb_record` and of `wb.record(collect=...)`.

    NAME[:ARGUMENT][,KEY=VALUE ...]

NAME is a collector, ARGUMENT what it looks at (a rate, a symbol, an address) and the pairs are its options, the same
words as the keyword arguments in Python: `cpu:999`, `uprobe:libsqlite3:sqlite3_step,stacks=yes`,
`uprobe:libc:malloc(size_t size)->void*`, `watch:requests,access=rw,hits=1000`. Commas inside parentheses or brackets
belong to the argument.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field

from workbench.errors import BadSpec

__all__ = ("Spec", "parse")


@dataclass(frozen=True, slots=True)
class Spec:
    """A parsed specification.

    Options are read with `flag`, `integer`, `number`, `choice` and `text`, then `done` refuses what nobody read.
    """

    name: str
    argument: str = ""
    options: dict[str, str] = field(default_factory=dict)
    _read: set[str] = field(default_factory=set, compare=False, repr=False)

    def __str__(self) -> str:
        head = f"{self.name}:{self.argument}" if self.argument else self.name
        return ",".join([head, *(f"{key}={value}" for key, value in self.options.items())])

    def text(self, key: str, default: str = "") -> str:
        """Option as text."""
        self._read.add(key)
        return self.options.get(key, default)

    def flag(self, key: str, default: bool = False) -> bool:
        """Option as yes or no (1/0, true/false, on/off)."""
        value = self.text(key, "yes" if default else "no").lower()
        if value in ("yes", "1", "true", "on", ""):
            return True
        if value in ("no", "0", "false", "off"):
            return False
        raise BadSpec(f"{self}: {key} is {value!r}", f"write {key}=yes or {key}=no")

    def integer(
        self, key: str, default: int, low: int | None = None, high: int | None = None
    ) -> int:
        """Option as an integer in [low, high]; 0x and the suffixes K and M (1024 based) are understood."""
        return _integer(self.text(key, str(default)), f"{self}: {key}", low, high)

    def argument_integer(
        self, default: int, low: int | None = None, high: int | None = None
    ) -> int:
        """The argument as an integer."""
        return _integer(self.argument or str(default), f"{self}: {self.argument!r}", low, high)

    def number(self, key: str, default: float, low: float | None = None) -> float:
        """Option as a number."""
        value = self.text(key, str(default))
        try:
            result = float(value)
        except ValueError:
            raise BadSpec(
                f"{self}: {key} is {value!r}, not a number", f"for example {key}={default}"
            ) from None
        if not math.isfinite(result):
            raise BadSpec(f"{self}: {key} is {value}", f"for example {key}={default}")
        if low is not None and result < low:
            raise BadSpec(f"{self}: {key} is {value}, below {low}", f"choose {low:g} or more")
        return result

    def choice(self, key: str, default: str, allowed: tuple[str, ...]) -> str:
        """Option as one of `allowed`."""
        value = self.text(key, default)
        if value not in allowed:
            raise BadSpec(f"{self}: {key} is {value!r}", f"{key} is one of: {', '.join(allowed)}")
        return value

    def done(self) -> None:
        """Refuse options that were not read.

        Raises
        ------
        BadSpec
            Naming the nearest option that exists.
        """
        for key in self.options:
            if key not in self._read:
                near = difflib.get_close_matches(key, self._read, 1)
                known = f"options of {self.name}: {', '.join(sorted(self._read)) or 'none'}"
                raise BadSpec(
                    f"{self}: collector {self.name!r} has no option {key!r}",
                    f"did you mean {near[0]!r}? {known}" if near else known,
                )


def _integer(value: str, what: str, low: int | None, high: int | None) -> int:
    scale = (
        {"k": 1 << 10, "m": 1 << 20}.get(value[-1:].lower(), 1) if not value.startswith("0x") else 1
    )
    try:
        result = int(value[:-1] if scale > 1 else value, 0) * scale
    except ValueError:
        raise BadSpec(
            f"{what}: {value!r} is not an integer",
            "write a whole number, such as 1000, 0x3e8 or 1K (1024)",
        ) from None
    if (low is not None and result < low) or (high is not None and result > high):
        bounds = f"{low} or more" if high is None else f"{low} to {high}"
        raise BadSpec(f"{what}: {result} is outside {bounds}", f"choose a number of {bounds}")
    return result


def _split(text: str) -> list[str]:
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "([{<") - (character in ")]}>")
        if character == ">" and current.endswith("-"):
            depth += 1  # the arrow of a signature closes nothing
        if character == "," and depth <= 0:
            parts.append(current)
            current = ""
        else:
            current += character
    return [*parts, current]


def parse(text: str) -> Spec:
    """Parse one specification.

    Raises
    ------
    BadSpec
        It does not follow the grammar, or names an option twice.
    """
    name, _, rest = text.strip().partition(":")
    if not rest and "," in name:
        name, _, rest = name.partition(",")
        rest = "," + rest
    argument, *pairs = _split(rest)
    if not name.replace("_", "").isalnum():
        raise BadSpec(
            f"{text!r} does not begin with a collector's name",
            "the form is NAME[:ARGUMENT][,KEY=VALUE ...]",
        )
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not key.isidentifier():
            raise BadSpec(
                f"{text!r}: {pair!r} is not KEY=VALUE",
                "options follow the argument, separated by commas",
            )
        if key in options:
            raise BadSpec(f"{text!r}: option {key!r} is given twice", "keep one of them")
        options[key] = value if equals else "yes"
    return Spec(name.strip(), argument.strip(), options)
