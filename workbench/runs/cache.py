"""What a run depends on, as one key: same key, same result.

The key covers the notebook's cells (not its outputs), the parameters, the contents of the recordings, the sources of
the workbench, the versions of the packages that shape results and, for a live run, the class of the machine.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.runs.parameters import read_notebook

__all__ = ("Keys", "digest_of", "host_class", "notebook_digest", "package_digest", "versions")

_FORMAT = 1
_SOURCES = frozenset((".py", ".c", ".h", ".js", ".css"))
_PACKAGES = ("bpf-workbench", "numpy", "pandas", "pyarrow", "matplotlib", "papermill", "ipykernel", "nbconvert")


class Keys:
    """Makes the keys of many runs; what they share is read once."""

    def __init__(self) -> None:
        self._package = package_digest()
        self._versions = versions()
        self._notebooks: dict[Path, str] = {}
        self._recordings: dict[Path, str] = {}

    def key(
        self, notebook: Path, parameters: Mapping[str, Any], recordings: Mapping[str, Path], source: str
    ) -> str:
        """The key of one run, 64 hexadecimal digits."""
        if notebook not in self._notebooks:
            self._notebooks[notebook] = notebook_digest(notebook)
        for path in recordings.values():
            if path not in self._recordings:
                self._recordings[path] = digest_of(path)
        depends: dict[str, Any] = {
            "format": _FORMAT,
            "notebook": self._notebooks[notebook],
            "parameters": dict(parameters),
            "recordings": {name: self._recordings[path] for name, path in recordings.items()},
            "source": source,
            "package": self._package,
            "versions": self._versions,
        }
        if source == "live":
            depends["host"] = host_class()
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def notebook_digest(path: Path) -> str:
    """Digest of the cells' types, tags and sources; outputs and execution counts do not count."""
    cells = []
    for cell in read_notebook(path)["cells"]:
        source = cell.get("source", "")
        text = "".join(source) if isinstance(source, list) else source
        cells.append([cell.get("cell_type"), cell.get("metadata", {}).get("tags", []), text])
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """Digest of a file's content or of a folder's names and contents; empty for what does not exist."""
    if not path.exists():
        return ""
    total = hashlib.sha256()
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def package_digest() -> str:
    """Digest of the workbench's own sources and those of its BPF objects (of the objects where no sources ship)."""
    package = Path(__file__).resolve().parent.parent
    bpf = package.parent / "bpf"
    files = [one for one in package.rglob("*") if one.suffix in _SOURCES]
    files += [one for one in bpf.glob("*") if one.suffix in _SOURCES] or list(package.rglob("*.bpf.o"))
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file.relative_to(package.parent).as_posix()}\0".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a notebook's results."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def host_class() -> dict[str, Any]:
    """What makes two machines different for a measurement."""
    from workbench.frames.provenance import host

    here = host()
    return {
        "architecture": here.architecture,
        "cpu": here.cpu,
        "cpus": here.cpus,
        "kernel": here.kernel,
    }
