"""The live file of one frame: an Arrow stream that grows while recording and survives the death of its writer.

`NAME.arrow` is an Arrow IPC stream (lz4), `NAME.index` one record per whole batch: where it ends, the rows so far and
the CRC of its bytes. The index record is written after the batch, so the index never promises what the stream does
not hold; what a killed writer left half-written is simply not indexed.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.errors import DamagedRecording

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa
    from _typeshed import ReadableBuffer

__all__ = ("IndexRecord", "SpoolReader", "SpoolWriter", "read_index")

RECORD = struct.Struct("<QQII")
READ_CHUNK = 1 << 20
UNVERIFIED_HINT = "wb.load(path, verify=False) loads what comes before the damage"


class IndexRecord(NamedTuple):
    """One whole batch of a spool: the stream offset after it, rows up to and with it, CRC-32 of its bytes."""

    end: int
    rows: int
    crc: int


class _Stream(io.RawIOBase):
    """Writes straight through to a file and keeps the CRC of what was written since `take_crc`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.end = 0
        self.crc = 0

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += os.write(self.descriptor, view[done:])
        self.crc = zlib.crc32(view, self.crc)
        self.end += done
        return done

    def take_crc(self) -> int:
        crc, self.crc = self.crc, 0
        return crc


class SpoolWriter:
    """Appends batches to `NAME.arrow`.

    A batch has left the process when `write` returns: it survives the death of the writer, not that of the machine.

    Parameters
    ----------
    folder : Path
        Where the two files are made; they must not exist.
    name : str
        Name of the frame, or of one segment of it.
    schema : pyarrow.Schema
        Of every batch.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        import pyarrow as pa

        self.path = folder / f"{name}.arrow"
        self.rows = 0
        self.schema = schema
        self._good_end = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._index = os.open(self.path.with_suffix(".index"), flags, 0o644)
        try:
            self._stream = _Stream(os.open(self.path, flags, 0o644))
        except BaseException:
            os.close(self._index)
            raise
        self._file = pa.PythonFile(self._stream, "w")
        self._writer: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Append one batch.

        Raises
        ------
        OSError
            The batch could not be written (disk full); the file then ends after the last whole batch and takes no
            more.
        """
        import pyarrow.ipc as ipc

        try:
            if self._writer is None:
                options = ipc.IpcWriteOptions(compression="lz4", use_threads=False)
                self._writer = ipc.new_stream(self._file, self.schema, options=options)
            self._writer.write_batch(batch)
            rows = self.rows + batch.num_rows
            body = RECORD.pack(self._stream.end, rows, self._stream.take_crc(), 0)[:-4]
            written = os.write(self._index, body + struct.pack("<I", zlib.crc32(body)))
            if written != RECORD.size:
                raise OSError(28, "No space left on device", str(self.path))
        except OSError as error:
            os.ftruncate(self._stream.descriptor, self._good_end)
            error.filename = str(self.path)
            raise
        self.rows = rows
        self._good_end = self._stream.end

    def close(self) -> None:
        """Close the files. No end mark is written: the index says what is there."""
        if self._index >= 0:
            os.close(self._index)
            os.close(self._stream.descriptor)
            self._index = -1


def read_index(path: Path) -> list[IndexRecord]:
    """Records of the index beside spool file `path`, up to the first that is not whole."""
    try:
        data = path.with_suffix(".index").read_bytes()
    except FileNotFoundError:
        return []
    records = []
    last_end = last_rows = 0
    for at in range(0, len(data) - RECORD.size + 1, RECORD.size):
        end, rows, crc, check = RECORD.unpack_from(data, at)
        if (
            zlib.crc32(data[at : at + RECORD.size - 4]) != check
            or end <= last_end
            or rows < last_rows
        ):
            break
        records.append(IndexRecord(end, rows, crc))
        last_end, last_rows = end, rows
    return records


class SpoolReader:
    """The whole batches of one stream, as many as there were when the reader was made.

    A stream may grow while it is read; the reader keeps to what it saw first, so that reading twice gives the same.

    Parameters
    ----------
    path : Path
        The stream.
    verify : bool
        A batch with a wrong checksum is an error; else reading ends before it.
    """

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        self.path = path
        self._verify = verify
        self._records = read_index(path)
        self._checked = False

    @property
    def rows(self) -> int:
        """Rows that the index promises, or that are whole once they were read."""
        return self._records[-1].rows if self._records else 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """One batch at a time, from the first.

        Raises
        ------
        DamagedRecording
            A batch is not what was written, or the file is gone.
        """
        import pyarrow as pa
        import pyarrow.ipc as ipc

        try:
            self._check()
            if not self._records:
                return
            with pa.OSFile(str(self.path), "rb") as stream:
                reader = ipc.open_stream(stream)
                for _ in self._records:
                    batch = reader.read_next_batch()
                    batch.validate(full=True)
                    _ = batch.schema.names  # text that is no UTF-8 shows here
                    yield batch
        except FileNotFoundError:
            raise DamagedRecording(
                f"{self.path} is gone",
                "if its recorder has finished meanwhile, load the recording again",
            ) from None
        except (pa.ArrowException, OSError, MemoryError, ValueError, StopIteration) as error:
            raise DamagedRecording(
                f"{self.path} cannot be read: {error}", UNVERIFIED_HINT
            ) from error

    def _check(self) -> None:
        """Keep only the batches that the file really holds, by length and checksum."""
        if self._checked:
            return
        at = 0
        with self.path.open("rb") as stream:
            for number, record in enumerate(self._records):
                crc = 0
                while at < record.end:
                    chunk = stream.read(min(READ_CHUNK, record.end - at))
                    if not chunk:  # cut off: keep what is before
                        break
                    crc = zlib.crc32(chunk, crc)
                    at += len(chunk)
                whole = at == record.end
                if whole and crc == record.crc:
                    continue
                if whole and self._verify:
                    raise DamagedRecording(
                        f"{self.path} was changed: batch {number + 1} of {len(self._records)} "
                        "has a wrong checksum",
                        UNVERIFIED_HINT,
                    )
                del self._records[number:]
                break
        self._checked = True
