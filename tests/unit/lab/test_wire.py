"""Frames survive any way of being cut up, and nothing else passes for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import RunFailed
from workbench.lab.wire import LIMIT, Decoder, Kind, decode_object, encode, encode_object

FRAMES = st.lists(st.tuples(st.sampled_from(list(Kind)), st.binary(max_size=300)), max_size=12)


@given(FRAMES, st.lists(st.integers(1, 97), min_size=1))
def test_frames_arrive_whole_however_the_stream_is_cut(
    frames: list[tuple[Kind, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(encode(kind, payload) for kind, payload in frames)
    decoder, got, at, turn = Decoder(), [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        got += decoder.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert got == frames
    assert decoder.pending == 0


@given(st.binary(min_size=8, max_size=200))
def test_other_bytes_are_refused_or_are_frames(data: bytes) -> None:
    decoder = Decoder()
    try:
        frames = list(decoder.feed(data))
    except RunFailed:
        return
    again = b"".join(encode(kind, payload) for kind, payload in frames)
    assert data.startswith(again)
    assert decoder.pending == len(data) - len(again)


@pytest.mark.parametrize(
    "damage",
    [
        b"XB\x01\0\0\0\0\0",
        b"WB\x00\0\0\0\0\0",
        b"WB\xff\0\0\0\0\0",
        b"WB\x01\x01\0\0\0\0",
        b"WB\x01\0\xff\xff\xff\xff",
    ],
)
def test_a_damaged_header_ends_the_stream(damage: bytes) -> None:
    decoder = Decoder()
    assert list(decoder.feed(encode(Kind.STDIN))) == [(Kind.STDIN, b"")]
    with pytest.raises(RunFailed, match="where a frame should begin"):
        list(decoder.feed(damage))


def test_a_payload_has_a_limit() -> None:
    assert list(Decoder().feed(encode(Kind.DATA, bytes(LIMIT)))) == [(Kind.DATA, bytes(LIMIT))]
    with pytest.raises(ValueError, match="at most"):
        encode(Kind.DATA, bytes(LIMIT + 1))


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.none())))
def test_objects_come_back(fields: dict[str, object]) -> None:
    [(kind, payload)] = Decoder().feed(encode_object(Kind.RUN, fields))
    assert (kind, decode_object(payload)) == (Kind.RUN, fields)


@given(st.binary(max_size=60))
def test_what_is_no_object_is_refused(data: bytes) -> None:
    try:
        assert isinstance(decode_object(data), dict)
    except RunFailed as error:
        assert "instead of an object" in str(error)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(RunFailed):
        decode_object(b"[" * 200_000)
