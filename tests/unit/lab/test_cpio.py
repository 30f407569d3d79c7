"""The initramfs is a cpio archive as another program reads it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.lab import cpio


def read(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """A reader of its own, from the format's description."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * one : at + 14 + 8 * one], 16) for one in range(13)]
        size, length = fields[6], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        assert data[at + 110 + length - 1] == 0
        at += (110 + length + 3) & ~3
        if name == "TRAILER!!!":
            assert len(data) % 512 == 0 and not any(data[at:])
            return found
        assert name not in found
        found[name] = (fields[1], data[at : at + size], (fields[9], fields[10]))
        at += (size + 3) & ~3


NAMES = st.lists(
    st.text("abc.-_", min_size=1, max_size=5).filter(lambda one: one not in (".", "..")),
    min_size=1,
    max_size=3,
)


@given(st.dictionaries(NAMES.map("/".join), st.binary(max_size=40), max_size=8))
def test_what_is_written_is_read(files: dict[str, bytes]) -> None:
    below = {path for path in files if any(other.startswith(path + "/") for other in files)}
    chosen = {path: cpio.file(data) for path, data in files.items() if path not in below}
    found = read(cpio.archive(chosen))
    for path, (mode, data, numbers) in chosen.items():
        assert found[path] == (mode, data, numbers)
        for depth in range(1, path.count("/") + 1):
            assert found["/".join(path.split("/")[:depth])][0] == 0o40755
    names = list(found)
    assert names == sorted(names)  # a folder comes before what is in it


def test_links_devices_and_folders() -> None:
    entries = {
        "dev/console": cpio.device(5, 1),
        "bin/sh": cpio.link("busybox"),
        "tmp": cpio.folder(0o777),
    }
    found = read(cpio.archive(entries))
    assert found["dev/console"] == (0o20600, b"", (5, 1))
    assert found["bin/sh"] == (0o120777, b"busybox", (0, 0))
    assert found["tmp"][0] == 0o40777


def test_the_bytes_depend_on_the_contents_alone() -> None:
    a = {"x": cpio.file(b"1"), "y/z": cpio.file(b"2")}
    assert cpio.archive(a) == cpio.archive(dict(reversed(a.items())))
    assert struct.pack("4x") * 128 in cpio.archive({"x": cpio.file(bytes(512))})


@pytest.mark.parametrize("path", ["/x", "", "a//b", "../x", "a/./b"])
def test_paths_that_lead_out_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no path inside"):
        cpio.archive({path: cpio.file(b"")})
