"""The kernel is chosen by what the archive says, whatever versions it has."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.lab.apt import archive_uri, parse_stanzas, parse_uris
from workbench.lab.sources import candidates, compare_versions

SHOWN = """\
Package: linux-image-cloud-amd64
Version: 7.2.13-1
Depends: linux-base-cloud-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)
Description-en: Linux for virtual machines
 This package depends on the latest kernel.
 .
 Version: none of it

Package: linux-image-cloud-amd64
Version: 7.10.2-1~bpo13+1
Depends: linux-image-7.10.2+deb13-cloud-amd64 (= 7.10.2-1~bpo13+1),
 linux-modules-cloud-amd64

Package: linux-image-cloud-amd64
Version: 6.12.95-1~bpo12+1
Depends: linux-image-6.12.95+deb12-cloud-amd64 (= 6.12.95-1~bpo12+1)

Package: linux-image-cloud-amd64
Version: 9.9
"""


def test_candidates_are_newest_first() -> None:
    assert candidates(parse_stanzas(SHOWN)) == [
        ("7.10.2-1~bpo13+1", "7.10.2+deb13-cloud-amd64"),
        ("7.2.13-1", "7.2.13+deb14-cloud-amd64"),
        ("6.12.95-1~bpo12+1", "6.12.95+deb12-cloud-amd64"),
    ]


@given(st.text(max_size=300))
def test_any_text_is_read(text: str) -> None:
    candidates(parse_stanzas(text))
    parse_uris(text)
    archive_uri([text])


def test_missing_packages_are_read_from_print_uris() -> None:
    text = (
        "'http://a/x/nginx_1.22.1-9_amd64.deb' nginx_1.22.1-9_amd64.deb 527108 SHA256:00\n"
        "'http://a/x/libapr1_1%3a1.7.2_amd64.deb' libapr1_1%3a1.7.2_amd64.deb 102592 SHA256:11\n"
        "E: Unable to locate package x\n"
    )
    assert parse_uris(text) == ["nginx", "libapr1"]


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("deb http://deb.debian.org/debian bookworm main\n", "http://deb.debian.org/debian"),
        (
            "# deb http://no/debian x\ndeb [arch=amd64 signed-by=/k] https://m.example/debian/ sid main",
            "https://m.example/debian",
        ),
        (
            "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm",
            "http://deb.debian.org/debian",
        ),
        ("Types: deb\nURIs: http://deb.debian.org/debian-security\n", ""),
        ("deb https://packages.example.com/apt cloud main", ""),
        ("deb http://archive.ubuntu.com/ubuntu noble main", ""),
        ("", ""),
    ],
)
def test_the_archive_is_the_systems_own(text: str, uri: str) -> None:
    assert archive_uri(["deb https://packages.example.com/apt other main", text]) == uri


@pytest.mark.parametrize(
    "order",
    [
        ["1.0~rc1-1", "1.0-1", "1.0-1+b1", "1.0.1-1", "1.2-1", "1.10-1", "2", "1:0.1"],
        ["7.3.4-1~bpo13+1", "7.3.4-1", "7.3.4-1.1", "7.3.10-1"],
        ["1.0a", "1.0+b"],
    ],
)
def test_versions_sort_as_debian_sorts_them(order: list[str]) -> None:
    for at, one in enumerate(order):
        for other in order[at + 1 :]:
            assert compare_versions(one, other) < 0 < compare_versions(other, one)
        assert compare_versions(one, one) == 0


@pytest.mark.skipif(not shutil.which("dpkg"), reason="compares with dpkg, which only Debian has")
def test_versions_sort_as_dpkg_says() -> None:
    versions = [
        "1.0-1",
        "1.0~-1",
        "1.0-1~bpo1",
        "1.0-01",
        "1:1.0",
        "1.0.a-1",
        "1.0+x-1",
        "1.0-1-1",
        "10",
        "9z",
        "9~z",
    ]
    for a in versions:
        for b in versions:
            older = (
                subprocess.run(["dpkg", "--compare-versions", a, "lt", b], check=False).returncode
                == 0
            )
            assert older == (compare_versions(a, b) < 0), (a, b)
