"""What a run leaves in its folder: notebook, HTML, log and a manifest that says how it came about."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ("OutputFiles", "read_manifest", "settle", "write_manifest")

MANIFEST_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True)
class OutputFiles:
    """The files of one run. While it runs, notebook and HTML are written under names with ``.part``."""

    folder: Path
    stem: str

    @property
    def notebook(self) -> Path:
        """The executed notebook."""
        return self.folder / f"{self.stem}.ipynb"

    @property
    def part(self) -> Path:
        """The notebook while it runs (it ends in .ipynb because papermill insists)."""
        return self.folder / f"{self.stem}.part.ipynb"

    @property
    def html(self) -> Path:
        """The executed notebook as a page."""
        return self.folder / f"{self.stem}.html"

    @property
    def html_part(self) -> Path:
        """The page while it is written."""
        return self.folder / f"{self.stem}.part.html"

    @property
    def log(self) -> Path:
        """One line per cell, and what the kernel printed outside of cells."""
        return self.folder / f"{self.stem}.log"

    @property
    def manifest(self) -> Path:
        """Provenance, status and claims."""
        return self.folder / "manifest.json"

    def clear(self) -> None:
        """Remove what an earlier run left half-written, and its log."""
        for path in (self.part, self.html_part, self.log):
            path.unlink(missing_ok=True)

    def publish(self) -> None:
        """Give the finished files their names; a page of an earlier run does not outlive its notebook."""
        if self.part.exists():
            self.part.replace(self.notebook)
            if self.html_part.exists():
                self.html_part.replace(self.html)
            else:
                self.html.unlink(missing_ok=True)

    def digest(self) -> str:
        """Digest of the executed notebook; empty if there is none."""
        try:
            return hashlib.sha256(self.notebook.read_bytes()).hexdigest()
        except FileNotFoundError:
            return ""


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest; empty if there is none, or it is damaged or of a newer version (the run is then repeated)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or found.get("manifest_version") != MANIFEST_VERSION:
        return {}
    return found


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest in one step."""
    part = path.with_suffix(".part.json")
    text = json.dumps({"manifest_version": MANIFEST_VERSION, **content}, indent=1, default=str)
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def settle(part: Path, reason: str) -> None:
    """Make the statuses of a notebook true whose runner was killed before it could do so itself."""
    try:
        nb = json.loads(part.read_text(encoding="utf-8"))
        cells = nb["cells"]
    except (OSError, ValueError, KeyError):
        part.unlink(missing_ok=True)  # killed in the middle of a save: nothing that could be read
        return
    unsettled = False
    for cell in cells:
        record = cell.get("metadata", {}).get("papermill", {})
        if record.get("status") == "running":
            unsettled = True
            record.update(status="failed", exception=True)
            if cell.get("cell_type") == "code":
                error = {"output_type": "error", "ename": "RunnerKilled", "evalue": reason}
                cell["outputs"].append({**error, "traceback": [f"RunnerKilled: {reason}"]})
        elif record.get("status") == "pending":
            unsettled = True
            record["status"] = "skipped"
    if unsettled:
        nb["metadata"].setdefault("papermill", {}).update(exception=True, reason=reason)
        part.write_text(json.dumps(nb, indent=1) + "\n", encoding="utf-8")
