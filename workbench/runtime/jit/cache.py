"""Compiled code kept on disk: named by everything that it depends on, checked before it is used, bounded in size.

A file is a magic number, the SHA-256 of the rest, one line of JSON and the code. A damaged, foreign or half-written
file counts as absent and is written anew; nothing waits for a lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from workbench.objects.compile import cache_folder
from workbench.objects.linked import LinkedMap
from workbench.runtime.jit.blob import Blob, Symbol
from workbench.runtime.jit.unit import Options

if TYPE_CHECKING:
    from workbench.runtime.verifier.verdict import Verdict

__all__ = ("LIMIT", "folder", "key", "read", "write")

LIMIT: Final = 256 << 20  # bytes of all files together
_MAGIC: Final = b"wbjit\0\0\1"
_EVERY: Final = 32  # writes between two looks at the folder's size
_writes = 0


def folder() -> Path:
    """Where compiled code is kept: `jit` in the workbench's cache folder."""
    return cache_folder() / "jit"


@cache
def _sources() -> bytes:
    """Digest of this compiler: its own files and the helpers that it inlines."""
    from workbench.runtime.jit.bitcode import digest

    total = hashlib.sha256(digest())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        total.update(path.read_bytes())
    return total.digest()


@cache
def _llvm() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("llvmlite")
    except PackageNotFoundError:
        return ""


@cache
def processor() -> str:
    """Model and features of this processor, as the kernel states them."""
    try:
        with Path("/proc/cpuinfo").open() as file:
            first = file.read(16384).partition("\n\n")[0]
    except OSError:
        return ""
    wanted = ("model", "stepping", "vendor", "cpu family", "flags", "Features", "CPU ")
    return "\n".join(line for line in first.splitlines() if line.startswith(wanted))


def key(code: bytes, maps: Sequence[LinkedMap], options: Options, verdict: Verdict | None) -> str:
    """Name of the file for this code: hexadecimal digest of all that the result depends on."""
    total = hashlib.sha256(_sources())
    local = processor()
    parts = [repr(options), _llvm(), local, str(len(code))]
    for shape in maps:
        known = (shape.type, shape.key_size, shape.value_size, shape.max_entries, shape.flags)
        parts.append(repr((known, shape.read_only)))
        if shape.read_only:
            parts.append(hashlib.sha256(shape.initial).hexdigest())
    if verdict is not None:
        parts.append(repr(sorted(verdict.unbounded)))
        total.update(verdict.kinds.tobytes())
    total.update("\0".join(parts).encode())
    total.update(code)
    return total.hexdigest()


def read(name: str) -> Blob | None:
    """The blob of that name; None where there is none that is whole and this user's own."""
    path = folder() / name
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_uid != os.geteuid() or state.st_mode & 0o022:
                return None
            content = file.read()
            with suppress(OSError):
                os.utime(file.fileno())
    except OSError:
        return None
    if content[:8] != _MAGIC or hashlib.sha256(content[40:]).digest() != content[8:40]:
        return None
    (length,) = struct.unpack_from("<I", content, 40)
    head = json.loads(content[44 : 44 + length])
    return Blob(
        content[44 + length :],
        head["entry"],
        head["machine"],
        head["tier"],
        head["vectors"],
        tuple(Symbol(*symbol) for symbol in head["symbols"]),
    )


def write(name: str, blob: Blob) -> None:
    """Keep a blob; where the folder cannot be written, nothing happens."""
    symbols = [(s.name, s.offset, s.size) for s in blob.symbols]
    head = json.dumps(
        {
            "entry": blob.entry,
            "machine": blob.machine,
            "tier": blob.tier,
            "vectors": blob.vectors,
            "symbols": symbols,
        }
    ).encode()
    rest = struct.pack("<I", len(head)) + head + blob.code
    place = folder()
    part = place / f".{name}.{os.getpid()}.{os.urandom(4).hex()}"
    with suppress(OSError):
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(rest).digest() + rest)
            part.replace(place / name)
        finally:
            part.unlink(missing_ok=True)
        _bound(place)


def _bound(place: Path) -> None:
    """Every so often, remove what was not used for longest until the rest fits."""
    global _writes
    _writes += 1
    if _writes % _EVERY != 1:
        return
    trim(place, LIMIT)


def trim(place: Path, limit: int) -> None:
    """Remove the files that were not used for longest until the others have at most `limit` bytes."""
    files = []
    with os.scandir(place) as entries:
        for entry in entries:
            with suppress(OSError):
                state = entry.stat()
                files.append((state.st_mtime_ns, state.st_size, entry.path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            break
        with suppress(OSError):
            Path(path).unlink()
        total -= size
