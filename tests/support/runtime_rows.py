"""Tests of the userspace runtime need llvmlite and iced-x86: the rows of the doctor that a folder's tests take."""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ("mark",)


def mark(items: list[pytest.Item], folder: Path, *rows: str, only: str = "") -> None:
    """Let every test below `folder`, in files whose name contains `only`, need these rows."""
    for item in items:
        if item.path.is_relative_to(folder) and only in item.path.name:
            item.add_marker(pytest.mark.needs(*rows))
