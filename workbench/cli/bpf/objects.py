"""What the sub-verbs that take an object have in common."""

from __future__ import annotations

import contextlib
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import BadSpec, CompileFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from workbench.objects.model import BpfObject

__all__ = ("check_programs", "no_object_is_bad_usage", "opened")


@contextlib.contextmanager
def no_object_is_bad_usage() -> Iterator[None]:
    """A file that is no BPF object, or C that clang refuses, ends with the exit status of a wrong argument.

    Exit status 1 of `workbench bpf check` then means one thing: a program is refused.
    """
    from workbench.objects.btf import BadBtf
    from workbench.objects.elf import BadElf

    try:
        yield
    except (BadElf, BadBtf, CompileFailed) as error:
        raise BadSpec(error.message, error.hint) from error


def opened(name: str) -> BpfObject:
    """The object of a file: compiled first when it is C, one of the project's own when it is no file but a name.

    Raises
    ------
    BadSpec
        Neither a file nor one of the project's objects; not a BPF object; C that clang refuses.
    """
    from workbench.objects.build import built_object
    from workbench.objects.compile import BUILT, target_arch
    from workbench.objects.model import builtin, compile
    from workbench.objects.model import open as open_object

    path = Path(name)
    if "/" not in name and not path.exists() and built_object(name).exists():
        return builtin(name)
    if not path.exists():
        known = sorted(one.name.split(".")[0] for one in BUILT.glob(f"*.{target_arch()}.bpf.o"))
        near = difflib.get_close_matches(name, known, 1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise BadSpec(
            f"there is no file {name}",
            f"{guess}a BPF object (.o), C source (.bpf.c), or one of the project's own: "
            f"{', '.join(known) or 'none is built'}",
        )
    with no_object_is_bad_usage():
        return compile(path) if path.suffix == ".c" else open_object(path)


def check_programs(obj: BpfObject, names: Iterable[str]) -> None:
    """Refuse a program that the object does not have.

    Raises
    ------
    BadSpec
        With the nearest name, and all.
    """
    known = [one.name for one in obj.programs]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise BadSpec(
                f"{obj.name} has no program {name!r}",
                f"{guess}programs: {', '.join(known) or 'none'}",
            )
