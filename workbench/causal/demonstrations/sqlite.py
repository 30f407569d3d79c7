"""SQLite's own shell, fed with queries through a pipe; an extension that was loaded scores texts slowly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.causal.demonstrations.model import Demonstration, Process, Spot

if TYPE_CHECKING:
    from workbench.causal.demonstrations.model import Place

__all__ = ("SQLITE",)

_TURNS, _ROWS, _SHELVES, _QUERIES = 100, 400, 40, 400


def _prepare(place: Place) -> None:
    setup = [f".load {place.programs / 'sqlite_score'}", ".output /dev/null"]
    setup.append(
        "CREATE TABLE books(id INTEGER PRIMARY KEY, shelf INTEGER, title TEXT, hits INTEGER DEFAULT 0);"
    )
    setup.append("CREATE INDEX by_shelf ON books(shelf);")
    setup += [
        f"INSERT INTO books(shelf, title) VALUES ({number % _SHELVES}, 'title {number * 7919 % 10007}');"
        for number in range(_ROWS)
    ]
    queries = [
        f"UPDATE books SET hits = hits + 1 WHERE id = {number % _ROWS + 1};"
        if number % 8 == 7
        else f"SELECT title, score(title) FROM books WHERE shelf = {number * 17 % _SHELVES} ORDER BY 2 DESC LIMIT 3;"
        for number in range(_QUERIES)
    ]
    (place.folder / "setup.sql").write_text("\n".join(setup) + "\n")
    (place.folder / "queries.sql").write_text("\n".join(queries) + "\n")


SQLITE = Demonstration(
    name="sqlite",
    about="a loaded extension's SQL function scores texts (planted)",
    processes=(
        Process(
            "sqlite3",
            lambda place: ["sqlite3", "-batch", ":memory:"],
            environment=lambda place: {"WORKBENCH_KNOBS": str(place.knobs)},
        ),
        Process(
            "queries",
            lambda place: ["sh", "-c", "cat setup.sql; while cat queries.sql; do :; done"],
            feeds="sqlite3",
        ),
    ),
    progress=("sqlite3", "libsqlite3.so.0:sqlite3_prepare_v2"),
    spots=(
        Spot("score_text", "sqlite_score.so:score_text"),
        Spot("libsqlite3", "text:libsqlite3.so"),
        Spot("the shell", "text:sqlite3"),
        Spot("libc", "text:libc.so"),
        Spot("sqlite3_prepare_v2", "libsqlite3.so.0:sqlite3_prepare_v2"),
    ),
    knobs={0: _TURNS},
    fix=lambda fraction: {0: round(_TURNS * (1 - fraction))},
    prepare=_prepare,
)  # fmt: skip
