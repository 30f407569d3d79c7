"""`wb.compare_backends`: both find the same; an unprivileged user gets the kernel half from a recording."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import workbench as wb
from workbench.frames.recording import Recording
from workbench.runs.backends import cost_ratio, side_by_side

ROOT = Path(__file__).parents[3]
REFUSED = """
#include "workbench.h"
__u64 table[8];
SEC("uprobe") int outside(void *ctx) { return table[bpf_get_prandom_u32() % 10]; }
char LICENSE[] SEC("license") = "GPL";
"""
ROWS = 300

pytestmark = [
    pytest.mark.needs("clang", "userspace JIT", "userspace maps", "userspace probe"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("backends")
    return wb.compare_backends(folder / "both", rows=ROWS, refused=REFUSED)


@pytest.mark.needs("uprobe", "ring buffer")
def test_both_find_what_the_program_did(both: Recording) -> None:
    table = side_by_side(both)
    assert table["equal"].all()
    ours = table.set_index(["map", "key"])["userspace"]
    assert ours["counts"].to_dict() == {
        "sqlite3_bind_int64": 2 * ROWS, "sqlite3_step": 2 * ROWS + 1, "sqlite3_reset": ROWS + 1,
        "sqlite3_column_int64": ROWS,
    }  # fmt: skip
    assert ours["results"].to_dict() == {"100 (SQLITE_ROW)": ROWS, "101 (SQLITE_DONE)": ROWS + 1}
    assert ours["sizes"].sum() == ours["calls", "records"] == 2 * ROWS and ours["calls", "lost"] == 0
    from workbench.runs.backends_child import value

    assert ours["calls", "sum of arguments"] == sum(row + value(row) for row in range(ROWS))
    assert set(both.overhead["collector"]) == {"kernel", "userspace"}
    assert cost_ratio(both) > 1


def test_what_the_verifier_says_is_kept(both: Recording) -> None:
    verdicts = both.frame("verdicts").set_index("program")
    assert verdicts["accepted"].to_dict() == {
        "count": True, "called": True, "returned": True, "outside": False,
    }  # fmt: skip
    assert "64 bytes" in verdicts.loc["outside", "reason"] and "hint:" in verdicts.loc["outside", "reason"]
    states = both.frame("verifier_states")
    lookup = states[(states["program"] == "count") & (states["text"] == "if r0 == 0x0 goto +3")]
    assert "or null" in lookup["r0"].iloc[0]


def test_a_figure_of_what_is_equal(both: Recording) -> None:
    figure = wb.plot.map_entries(both, "counts")
    (axes,) = figure.axes
    assert len(axes.patches) == len(side_by_side(both).query("map == 'counts'")) * both.frame("map_entries")[
        "backend"
    ].nunique()
    with pytest.raises(wb.WorkbenchError, match="no entries of map 'sices'") as missing:
        wb.plot.map_entries(both, "sices")
    assert "sizes" in missing.value.hint


SCRIPT = """
import sys
import workbench as wb
from workbench.runs.backends import side_by_side
rec = wb.compare_backends("mine", rows=int(sys.argv[1]), recorded=sys.argv[2])
print(sorted(set(rec.overhead["collector"])), side_by_side(rec).to_json(orient="records"))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.needs("uprobe", "ring buffer")
def test_without_privilege(both: Recording, tmp_path: Path) -> None:
    """The user-space half runs; the kernel's numbers are those of the recording, its costs are not."""
    shutil.copytree(both.path, tmp_path / "recorded")
    shutil.copytree(ROOT / "workbench", tmp_path / "workbench", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(path.stat().st_mode | (0o777 if path.is_dir() else 0o444))
    drop = [
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        # The interpreter may lie in a folder that only root may enter; nothing else is kept.
        "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
    ]  # fmt: skip
    done = subprocess.run(
        [*drop, sys.executable, "-c", SCRIPT, str(ROWS), "recorded"], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(tmp_path),
             "WORKBENCH_NAMESPACES": str(tmp_path / "namespaces")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    note, result = done.stdout.splitlines()
    assert note.startswith("the kernel takes no program of this user") and note.endswith("recorded")
    who, table = result.split("] ", 1)
    assert who == "['userspace'"
    rows = pd.DataFrame(json.loads(table))
    assert rows["equal"].all() and len(rows) == len(side_by_side(both))
