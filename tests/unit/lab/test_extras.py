"""Programs that are fetched for guests when asked for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import pytest

from workbench.errors import BadSpec, MissingCapability
from workbench.lab import extras
from workbench.lab.cache import Cache


class Archive:
    """An archive whose packages hold a file each, or are damaged."""

    damaged = False
    asked: list[str]

    @classmethod
    def of_system(cls, folder: Path) -> Self:
        return cls()

    def update(self, say: object) -> None:
        pass

    def extract(self, packages: Iterable[str], target: Path, say: object, suite: str) -> None:
        type(self).asked = list(packages)
        for name in self.asked:
            (target / name).write_text("a file")
            if self.damaged:
                raise MissingCapability("the archive broke off")


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> type[Archive]:
    monkeypatch.setattr(extras, "Apt", Archive)
    monkeypatch.setattr(Archive, "damaged", False)
    return Archive


def test_what_was_not_fetched_says_how(tmp_path: Path) -> None:
    with pytest.raises(MissingCapability) as raised:
        extras.extra("coz", Cache(tmp_path))
    assert "workbench lab prepare --with coz" in raised.value.hint


def test_there_is_no_extra_of_another_name(tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match="no extra 'cos'"):
        extras.extra("cos", Cache(tmp_path))


def test_it_is_fetched_once(tmp_path: Path, archive: type[Archive]) -> None:
    cache = Cache(tmp_path)
    folder = extras.fetch("coz", cache, print)
    assert extras.extra("coz", cache) == folder
    assert sorted(path.name for path in folder.iterdir()) == sorted(extras.EXTRAS["coz"])
    archive.asked = []
    assert extras.fetch("coz", cache, print) == folder and not archive.asked


def test_a_half_of_it_does_not_stay(tmp_path: Path, archive: type[Archive]) -> None:
    archive.damaged = True
    with pytest.raises(MissingCapability, match="broke off"):
        extras.fetch("coz", Cache(tmp_path), print)
    assert not (tmp_path / "extras" / "coz").exists()
    assert not list((tmp_path / "work").iterdir())
