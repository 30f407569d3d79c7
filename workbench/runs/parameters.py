"""The parameters of a notebook: the names that its cell tagged ``parameters`` assigns."""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.errors import BadSpec

__all__ = ("check_parameters", "notebook_parameters", "read_notebook")

_HOW_TO_TAG = (
    "in JupyterLab: select the cell, open the property inspector (gear, top right), add the tag `parameters`"
)


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook as plain JSON (no Jupyter package is imported).

    Raises
    ------
    BadSpec
        The file is no notebook of format 4.
    """
    try:
        nb = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(nb["cells"], list):
            raise TypeError
    except (OSError, UnicodeDecodeError) as error:
        raise BadSpec(f"cannot read {path}: {error}") from None
    except (ValueError, KeyError, TypeError):
        raise BadSpec(
            f"{path} is not a Jupyter notebook of format 4", "open it in JupyterLab and save it again"
        ) from None
    return dict(nb)


def notebook_parameters(path: Path) -> tuple[str, ...] | None:
    """Names that a notebook's parameters cell assigns, in order; None if no cell has the tag.

    As papermill, only the first tagged cell counts.
    """
    for cell in read_notebook(path)["cells"]:
        if "parameters" in cell.get("metadata", {}).get("tags", ()):
            source = cell.get("source", "")
            return _assigned("".join(source) if isinstance(source, list) else source, path)
    return None


def check_parameters(path: Path, wanted: Iterable[str], asker: str) -> None:
    """Refuse parameters that the notebook does not have: papermill would set them and nothing would change.

    Raises
    ------
    BadSpec
        Naming the parameter, the notebook and what the notebook has.
    """
    names = list(wanted)
    if not names:
        return
    have = notebook_parameters(path)
    if have is None:
        raise BadSpec(
            f"{asker} sets {', '.join(names)}, but {path} has no cell tagged `parameters`", _HOW_TO_TAG
        )
    for name in names:
        if name not in have:
            near = difflib.get_close_matches(name, have, n=1)
            raise BadSpec(
                f"{asker} sets the parameter {name!r}, which the parameters cell of {path} does not assign",
                (f"did you mean {near[0]!r}? " if near else "")
                + f"the notebook has: {', '.join(have) or 'none'}",
            )


def _assigned(source: str, path: Path) -> tuple[str, ...]:
    lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines()]
    try:
        body = ast.parse("\n".join(lines)).body
    except SyntaxError as error:
        raise BadSpec(f"the parameters cell of {path} is not Python: {error}") from None
    names: dict[str, None] = {}
    for statement in body:
        targets: list[ast.expr] = []
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        for target in targets:
            parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
            names.update((part.id, None) for part in parts if isinstance(part, ast.Name))
    return tuple(names)
