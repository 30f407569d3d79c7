"""Every exported function of a library in a process that works: the results stay, every call is counted."""

from __future__ import annotations

import sys

import pytest
from probed_programs import returning, running

from workbench.errors import UnknownSymbol, WorkbenchError
from workbench.runtime.attach import Process, Request
from workbench.runtime.attach.modules import Function, Modules

pytestmark = [pytest.mark.needs("ptrace")]

SCRIPT = r"""
import hashlib, sqlite3, sys, threading
def work(seed):
    db = sqlite3.connect(":memory:")
    db.create_function("twice", 1, lambda x: x * 2)
    db.execute("create table t (a integer primary key, b text, c real)")
    db.executemany("insert into t values (?, ?, ?)", [(i, f"row {i * seed}", i / 7) for i in range(500)])
    db.execute("create index i on t (b)")
    rows = db.execute("select twice(a), upper(b), round(sum(c), 6) from t group by a % 13 order by b").fetchall()
    try:
        db.execute("insert into t values (1, 2, 3)")
    except sqlite3.IntegrityError as error:
        rows.append(str(error))
    rows += db.execute("select count(*), json_group_array(a) from t where b like '%1%'").fetchall()
    blob = bytes(db.serialize()[:100]) if hasattr(db, "serialize") else b""
    db.close()
    return repr(rows).encode()
print("ready", flush=True)
for line in sys.stdin:
    out = [b"", b"", b""]
    def one(i):
        out[i] = work(i + 3)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    print(hashlib.sha256(b"".join(out)).hexdigest(), flush=True)
"""


def functions_of_sqlite(pid: int) -> list[Function]:
    try:
        return Modules(pid).named("libsqlite3").functions()
    except UnknownSymbol:
        pytest.skip("this Python has SQLite built in, not as a library")


def test_all_of_sqlite_at_once() -> None:
    with running([sys.executable, "-c", SCRIPT]) as program:
        assert program.read() == ["ready"]
        expected = program.ask("go")
        functions = functions_of_sqlite(program.pid)
        assert len(functions) > 200
        with Process(program.pid) as process:
            refused: list[tuple[Request, WorkbenchError]] = []
            nothing = returning(0)
            links = process.attach_many(
                [Request(nothing, one.address) for one in functions], refused
            )
            assert len(links) >= 0.98 * len(functions), [str(error) for _, error in refused[:5]]
            for _ in range(3):
                assert program.ask("go") == expected
            hits = {link.name.partition(":")[2]: link.hits for link in links}
            assert hits["sqlite3_step"] > 1000
            assert hits["sqlite3_close"] + hits.get("sqlite3_close_v2", 0) >= 9
            process.detach(links)
            before = sum(hits.values())
            assert program.ask("go") == expected
            assert sum(link.hits for link in links) == before
            for link in links[::50]:
                assert process.memory.read(link.address, 5) == process.places[link.address].original
        assert program.ask("go") == expected
        assert program.alive


def test_returns_of_all_of_sqlite() -> None:
    with running([sys.executable, "-c", SCRIPT]) as program:
        assert program.read() == ["ready"]
        expected = program.ask("go")
        functions = functions_of_sqlite(program.pid)
        with Process(program.pid) as process:
            refused: list[tuple[Request, WorkbenchError]] = []
            nothing = returning(0)
            links = process.attach_many(
                [Request(nothing, one.address, "uretprobe") for one in functions], refused
            )
            for _ in range(2):
                assert program.ask("go") == expected
            assert sum(link.hits for link in links) > 10_000
            assert sum(link.missed for link in links) == 0
        assert program.ask("go") == expected
