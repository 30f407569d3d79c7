"""Frames on the channel between host and guest: a kind, a length, a payload.

The channel is a virtio-serial port, a byte stream that loses nothing; nobody parses the console. A frame is eight bytes
of header, ``magic 'WB', kind u8, 0, length u32`` (little endian), and at most `LIMIT` bytes. Payloads of control frames
are JSON objects, all others raw bytes. Whoever reads something else stops at once: after a damaged header nothing that
follows has a meaning.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

from workbench.errors import RunFailed

__all__ = ("LIMIT", "Decoder", "Kind", "decode_object", "encode", "encode_object")

LIMIT = 1 << 20
"""Bytes of the longest payload."""

_MAGIC = b"WB"
_HEADER = struct.Struct("<2sBBI")


class Kind(IntEnum):
    """What a frame is; the comment says who sends it and what it holds."""

    HELLO = 1  # guest, object: the guest is up (release, cpus, seconds since boot)
    RUN = 2  # host, object: start a command (argv, env, folder, output, terminal, stdin)
    STDIN = 3  # host, bytes for the command; empty: end of file
    STDOUT = 4  # guest, bytes of the command
    STDERR = 5  # guest, bytes of the command
    KILL = 6  # host, object: send a signal to the command and its children (signal)
    RESIZE = 7  # host, object: size of the terminal (rows, columns)
    EXIT = 8  # guest, object: the command ended (status, signal, seconds)
    PUT = 9  # host, object: files follow as ENTRY and DATA until DONE (folder, name)
    GET = 10  # host, object: send files (path)
    ENTRY = 11  # both, object: a file, folder or link (path, kind, mode, size, target)
    DATA = 12  # both, bytes of the file that was named last
    DONE = 13  # both, object: the end of the files
    ERROR = 14  # guest, object: a request failed (message)


_KINDS = frozenset(int(one) for one in Kind)


class Decoder:
    """Cut a byte stream into frames, however it arrives in pieces."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """Take bytes; give the frames that are complete.

        Raises
        ------
        RunFailed
            The bytes are no frame of this protocol.
        """
        self._held += data
        while len(self._held) >= _HEADER.size:
            magic, number, zero, length = _HEADER.unpack_from(self._held)
            if magic != _MAGIC or zero or length > LIMIT or number not in _KINDS:
                raise RunFailed(
                    f"the guest's channel holds {bytes(self._held[:8])!r} where a frame should begin",
                    "a program in the guest wrote to the control port; run the command again",
                )
            end = _HEADER.size + length
            if len(self._held) < end:
                return
            payload = bytes(self._held[_HEADER.size : end])
            del self._held[:end]
            yield Kind(number), payload

    @property
    def pending(self) -> int:
        """Bytes of a frame that has begun and is not complete."""
        return len(self._held)


def encode(kind: Kind, payload: bytes = b"") -> bytes:
    """The bytes of one frame; `payload` of at most `LIMIT` bytes."""
    if len(payload) > LIMIT:
        raise ValueError(f"a frame holds at most {LIMIT} bytes, not {len(payload)}")
    return _HEADER.pack(_MAGIC, kind, 0, len(payload)) + payload


def encode_object(kind: Kind, fields: dict[str, Any]) -> bytes:
    """The bytes of one frame that holds a JSON object; names that are no text survive (surrogateescape)."""
    return encode(kind, json.dumps(fields).encode())


def decode_object(payload: bytes) -> dict[str, Any]:
    """The JSON object in a control frame.

    Raises
    ------
    RunFailed
        It holds something else.
    """
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise RunFailed(f"a control frame holds {payload[:40]!r} instead of an object")
    return fields
