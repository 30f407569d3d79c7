"""Finding and merging kernel headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import MissingCapability
from workbench.kernel.bcc_headers import find_headers


@pytest.fixture(autouse=True)
def no_choice_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)


def flavour(sources: Path, release: str, *, split: bool = True) -> Path:
    """Headers as Debian lays them out: one package per flavour, one for all."""
    folder = sources / f"linux-headers-{release}"
    for name, text in {
        "include/generated/utsrelease.h": f'#define UTS_RELEASE "{release}"\n',
        "include/config/auto.conf": "",
        "arch/x86/include/generated/asm/x.h": "generated",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    common = sources / f"linux-headers-{release.removesuffix('-cloud-amd64')}-common" if split else folder
    for name in ("include/linux/kconfig.h", "arch/x86/include/asm/y.h", "Makefile"):
        (common / name).parent.mkdir(parents=True, exist_ok=True)
        (common / name).write_text("common")
    return folder


def search(tmp_path: Path, release: str) -> object:
    return find_headers(
        tmp_path / "cache", release=release, modules=tmp_path / "modules", sources=tmp_path / "src",
        kheaders=tmp_path / "kheaders",
    )  # fmt: skip


def test_split_headers_are_merged_into_one_tree(tmp_path: Path) -> None:
    flavour(tmp_path / "src", "6.1.0-9-cloud-amd64")
    headers = search(tmp_path, "6.18.0")
    assert (headers.release, headers.running) == ("6.1.0-9-cloud-amd64", False)
    for name in (
        "include/linux/kconfig.h",
        "include/generated/utsrelease.h",
        "arch/x86/include/asm/y.h",
        "arch/x86/include/generated/asm/x.h",
        "Makefile",
    ):
        assert (headers.path / name).is_file(), name


def test_the_newest_is_taken_by_number_and_the_tree_is_reused(tmp_path: Path) -> None:
    flavour(tmp_path / "src", "6.1.0-9-cloud-amd64")
    flavour(tmp_path / "src", "6.1.0-50-cloud-amd64")
    first = search(tmp_path, "6.18.0")
    assert first.release == "6.1.0-50-cloud-amd64"
    made = first.path.stat().st_ino
    assert search(tmp_path, "6.18.0").path.stat().st_ino == made


def test_a_changed_package_is_merged_again(tmp_path: Path) -> None:
    folder = flavour(tmp_path / "src", "6.1.0-9-cloud-amd64")
    search(tmp_path, "6.18.0")
    (folder / "new.h").write_text("new")
    assert (search(tmp_path, "6.18.0").path / "new.h").exists()


def test_complete_headers_need_no_merge(tmp_path: Path) -> None:
    folder = flavour(tmp_path / "src", "6.8.0-40-generic", split=False)
    headers = search(tmp_path, "6.8.0-40-generic")
    assert (headers.path, headers.running) == (folder, True)


def test_headers_of_the_running_kernel_are_left_to_bcc(tmp_path: Path) -> None:
    (tmp_path / "modules/6.18.0/build").mkdir(parents=True)
    headers = search(tmp_path, "6.18.0")
    assert (headers.path, headers.running) == (None, True)


def test_the_users_choice_wins_and_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = flavour(tmp_path / "elsewhere", "6.1.0-9-cloud-amd64", split=False)
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(folder))
    assert search(tmp_path, "6.18.0").running is False
    assert search(tmp_path, "6.1.0-9-cloud-amd64").running is True


def test_without_headers_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(MissingCapability, match="linux-headers"):
        search(tmp_path, "6.18.0")
