"""`import workbench` costs next to nothing: no heavy package, no shared library, no kernel interface."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from workbench.bench import import_time

HEAVY = {"pandas", "matplotlib", "IPython", "torch", "pyarrow", "sklearn", "numpy", "capstone", "elftools", "yaml"}

SCRIPT = """
import json, sys, sysconfig

standard = sysconfig.get_path("stdlib")  # modules of the interpreter itself are not ours

def mapped():
    with open("/proc/self/maps") as maps:
        return {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}

opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
before = mapped()
import workbench
after = mapped()
print(json.dumps({
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    "libraries": sorted(path for path in after - before if not path.startswith(standard)),
    "kernel": [path for path in opened if path.startswith(("/sys", "/dev"))],
}))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    result: dict[str, list[str]] = json.loads(run.stdout)
    return result


def test_no_heavy_package_is_imported(imported: dict[str, list[str]]) -> None:
    assert HEAVY.intersection(imported["modules"]) == set()
    assert "workbench" in imported["modules"]


def test_no_shared_library_is_loaded(imported: dict[str, list[str]]) -> None:
    assert imported["libraries"] == []


def test_no_kernel_interface_is_opened(imported: dict[str, list[str]]) -> None:
    assert imported["kernel"] == []


def test_every_public_name_has_a_home() -> None:
    import workbench

    for name in workbench._PUBLIC:
        assert getattr(workbench, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = workbench.nonsense


def test_bench_compares_fresh_interpreters() -> None:
    result = import_time.measure(pairs=2)
    assert [row.name for row in result.rows] == ["import workbench", "import numpy"]
    assert all(row.value > 0 for row in result.rows)
    (check,) = result.checks
    assert check.limit == 2.0 and check.value == result.rows[0].ratio
