"""The program that `compare_backends` observes: SQLite called as often as it is told, the same calls every time.

Run as a script. Says which file its SQLite is, then reads lines `ROWS`: that many rows are written and read back,
through the library's own functions and nothing else, so that the counts depend on no version of SQLite or Python.
"""

import contextlib
import ctypes
import ctypes.util
import sys
from pathlib import Path

ROW, DONE = 100, 101


def find() -> str:
    """Path of the library: the one that Python has loaded, else the system's."""
    with contextlib.suppress(ImportError):
        import _sqlite3  # noqa: F401
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        path = line.split(maxsplit=5)[5:]
        if path and "libsqlite3" in path[0]:
            return path[0]
    return ctypes.util.find_library("sqlite3") or "libsqlite3.so.0"


def value(row: int) -> int:
    """A number of any size, the same in every run."""
    return (row * 2654435761 & 0xFFFFFFFFFF) >> row % 40


def work(sqlite: ctypes.CDLL, put: ctypes.c_void_p, get: ctypes.c_void_p, rows: int) -> int:
    """Write and read back; the sum of what was read."""
    for row in range(rows):
        sqlite.sqlite3_bind_int64(put, 1, ctypes.c_int64(row))
        sqlite.sqlite3_bind_int64(put, 2, ctypes.c_int64(value(row)))
        if sqlite.sqlite3_step(put) != DONE:
            sys.exit("a row was not written")
        sqlite.sqlite3_reset(put)
    total = 0
    while sqlite.sqlite3_step(get) == ROW:
        total += sqlite.sqlite3_column_int64(get, 0)
    sqlite.sqlite3_reset(get)
    return total


def main() -> None:
    path = find()
    try:
        sqlite = ctypes.CDLL(path)
    except OSError:
        print("", flush=True)
        return
    sqlite.sqlite3_column_int64.restype = ctypes.c_int64
    base, put, get = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    sqlite.sqlite3_open(b":memory:", ctypes.byref(base))
    sqlite.sqlite3_exec(base, b"create table numbers (id integer primary key, value integer)", 0, 0, 0)
    for text, statement in (
        (b"insert or replace into numbers values (?, ?)", put),
        (b"select value from numbers", get),
    ):
        sqlite.sqlite3_prepare_v2(base, text, -1, ctypes.byref(statement), None)
    work(sqlite, put, get, 1)  # what is done once only has been done
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        if Path(path).name in line:
            path = line.split(maxsplit=5)[5]
    print(path, flush=True)
    for line in sys.stdin:
        print(work(sqlite, put, get, int(line)), flush=True)


if __name__ == "__main__":
    main()
