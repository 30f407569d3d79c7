from __future__ import annotations

import json

import pytest

from workbench.host import Doctor, Row

ROWS = (Row("uprobe", True, "3 calls <counted>"), Row("fentry", False, "EPERM", "use a guest"))


def test_json_is_a_list_of_rows_in_order() -> None:
    assert json.loads(Doctor(ROWS).to_json()) == [
        {"name": "uprobe", "ok": True, "reason": "3 calls <counted>", "remedy": ""},
        {"name": "fentry", "ok": False, "reason": "EPERM", "remedy": "use a guest"},
    ]


def test_frame_has_the_declared_columns() -> None:
    frame = Doctor(ROWS).frame
    assert list(frame.columns) == ["name", "ok", "reason", "remedy"]
    assert frame["ok"].tolist() == [True, False]
    assert list(Doctor(()).frame.columns) == ["name", "ok", "reason", "remedy"]


def test_text_shows_every_row_with_its_remedy() -> None:
    text = str(Doctor(ROWS))
    assert "ok  uprobe" in text and "no  fentry" in text and "-> use a guest" in text
    assert text.endswith("1 of 2 capabilities work here")
    long = str(Doctor((Row("x", False, "word " * 100, "advice " * 100),)))
    assert max(map(len, long.splitlines())) <= 118


def test_html_escapes_what_rows_say() -> None:
    page = Doctor(ROWS)._repr_html_()
    assert "3 calls &lt;counted&gt;" in page and "<counted>" not in page


def test_rows_are_found_by_name() -> None:
    assert Doctor(ROWS)["fentry"].remedy == "use a guest"
    with pytest.raises(KeyError):
        Doctor(ROWS)["kprobe"]
