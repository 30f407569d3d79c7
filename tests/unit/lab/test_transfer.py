"""Trees arrive as they were sent; nothing is written outside the folder that receives them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import RunFailed
from workbench.lab.transfer import Receiver, frames_of
from workbench.lab.wire import Decoder, Kind, encode_object


def carry(source: Path, name: str, target: Path, *, outward: bool = False) -> Receiver:
    decoder, receiver, done = Decoder(), Receiver(target, outward=outward), False
    for data in frames_of(source, name):
        for kind, payload in decoder.feed(data):
            assert not done
            done = receiver.take(kind, payload)
    assert done
    return receiver


def test_a_tree_arrives_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "sub" / "large").write_bytes(os.urandom(700_001))
    (source / "none").write_bytes(b"")
    (source / "tool").write_text("#!/bin/sh\n")
    (source / "tool").chmod(0o755)
    (source / os.fsdecode(b"no\xfftext")).write_text("x")
    (source / "link").symlink_to("sub/large")
    os.utime(source / "none", ns=(10**18, 10**18))
    os.mkfifo(source / "pipe")
    receiver = carry(source, "here", tmp_path / "target")
    target = tmp_path / "target" / "here"
    assert (target / "sub" / "large").read_bytes() == (source / "sub" / "large").read_bytes()
    assert (target / "none").stat().st_mtime_ns == 10**18
    assert (target / "tool").stat().st_mode & 0o777 == 0o755
    assert (target / os.fsdecode(b"no\xfftext")).read_text() == "x"
    assert (target / "link").readlink() == Path("sub/large")
    assert (target / "sub" / "empty").is_dir()
    assert not (target / "pipe").exists()
    assert len(receiver.files) == 4 and receiver.entries == 8


def test_what_is_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("new")
    kept = tmp_path / "kept"
    kept.write_text("kept")
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").symlink_to(kept)
    carry(tmp_path / "file", "file", target)
    assert (target / "file").read_text() == "new" and not (target / "file").is_symlink()
    assert kept.read_text() == "kept"


def test_links_that_lead_out_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "out").symlink_to("/etc/passwd")
    (source / "up").symlink_to("../../..")
    carry(source, "x", tmp_path / "a")
    assert not os.path.lexists(tmp_path / "a/x/out") and not os.path.lexists(tmp_path / "a/x/up")
    carry(source, "x", tmp_path / "b", outward=True)
    assert (tmp_path / "b/x/out").is_symlink()


def entry(**fields: object) -> tuple[Kind, bytes]:
    whole = {
        "path": "x",
        "kind": "file",
        "mode": 0o644,
        "mtime_ns": 0,
        "size": 1,
        "target": "",
    } | fields
    [frame] = Decoder().feed(encode_object(Kind.ENTRY, whole))
    return frame


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a\0b"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    with pytest.raises(RunFailed, match="leads out"):
        Receiver(tmp_path / "in").take(*entry(path=name, kind=kind))


def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    receiver = Receiver(tmp_path / "in", outward=True)
    receiver.take(*entry(path="way", kind="link", target="../outside"))
    for path, kind in (("way/x", "file"), ("way/x/y", "folder"), ("way", "folder")):
        with pytest.raises(RunFailed, match="lead"):
            receiver.take(*entry(path=path, kind=kind, mode=0o777))
    assert list(outside.iterdir()) == [] and outside.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "fields",
    [
        {"size": -1},
        {"size": "many"},
        {"kind": "device"},
        {"mode": None},
        {"path": "y", "size": None},
    ],
)
def test_entries_that_make_no_sense_are_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    with pytest.raises(RunFailed):
        Receiver(tmp_path / "in").take(*entry(**fields))


def test_too_many_and_too_few_bytes_are_refused(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "in")
    with pytest.raises(RunFailed, match="more bytes"):
        receiver.take(Kind.DATA, b"x")
    receiver.take(*entry(size=3))
    receiver.take(Kind.DATA, b"ab")
    with pytest.raises(RunFailed, match="1 bytes of"):
        receiver.take(Kind.DONE, b"{}")
    receiver.close()
    with pytest.raises(RunFailed, match="amid files"):
        Receiver(tmp_path / "in").take(Kind.STDOUT, b"")


NAMES = st.lists(st.sampled_from(["a", "b", ".", "/", "..", "\0", "~"]), max_size=6).map("".join)


@settings(max_examples=60)
@given(st.lists(st.tuples(NAMES, st.sampled_from(["file", "folder", "link"]), NAMES), max_size=8))
def test_random_entries_stay_inside(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str, str]]
) -> None:
    top = tmp_path_factory.mktemp("random")
    (top / "outside").mkdir()
    receiver = Receiver(top / "inside", outward=True)
    for path, kind, target in entries:
        try:
            receiver.take(
                *entry(path=path, kind=kind, target=target.replace("~", "../outside"), size=0)
            )
        except (RunFailed, OSError, ValueError):
            receiver.close()
    receiver.close()
    assert sorted(os.listdir(top)) == ["inside", "outside"] and not os.listdir(top / "outside")  # noqa: PTH208
