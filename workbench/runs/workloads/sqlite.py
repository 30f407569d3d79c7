"""A small shop on SQLite: orders are inserted in transactions on a file, then read back by three kinds of query.

Facts: `committed`, the address of an 8-byte counter of committed transactions, to watch.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from workbench.runs.workloads.program import run

ROWS = 200


def prepare(folder: Path) -> tuple[dict[str, Any], Callable[[], None]]:
    """Open the database; the step is one batch of inserts and the queries on it."""
    base = sqlite3.connect(folder / "shop.db", isolation_level=None)
    base.executescript(
        "pragma journal_mode = wal; pragma synchronous = normal;"
        "create table orders (id integer primary key, customer integer, amount real, note text);"
        "create index by_customer on orders (customer);"
    )
    committed = np.zeros(1, np.int64)
    random.seed(1)

    def insert() -> None:
        base.execute("begin")
        base.executemany(
            "insert into orders (customer, amount, note) values (?, ?, ?)",
            [
                (random.randrange(500), random.random() * 100, "note " * random.randrange(20))
                for _ in range(ROWS)
            ],
        )
        base.execute("commit")
        committed[0] += 1

    def look_up() -> None:
        for _ in range(100):
            base.execute(
                "select sum(amount) from orders where customer = ?", (random.randrange(500),)
            ).fetchone()

    def aggregate() -> None:
        base.execute(
            "select customer, count(*), avg(amount) from orders where id > (select max(id) - 20000 from orders)"
            " group by customer order by 3 desc limit 10"
        ).fetchall()

    def search() -> None:
        base.execute(
            "select count(*) from (select note from orders order by id desc limit 5000) where note like '%e n%'"
        )

    def step() -> None:
        for _ in range(20):
            insert()
            look_up()
        aggregate()
        search()

    return {"committed": committed.ctypes.data}, step


if __name__ == "__main__":
    run(prepare)
