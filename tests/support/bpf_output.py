"""What `workbench bpf ...` prints, as text or as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workbench.cli import main

__all__ = ("Output",)


class Output:
    """What a command printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def of(self, *words: object, status: int = 0) -> str:
        """Standard output of `workbench bpf ...`, which ends with `status`; errors for another than 0 or 1."""
        assert main(["bpf", *map(str, words)]) == status, self.capsys.readouterr()
        out, err = self.capsys.readouterr()
        return out or err

    def json(self, *words: object, status: int = 0) -> Any:
        return json.loads(self.of(*words, "--json", status=status))
