"""Every notebook of the project executes, live and replayed, and its claims hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from workbench.frames.recording import load
from workbench.runs.experiment import load_experiment
from workbench.runs.run import run

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "experiments" / "paper.yaml"
LIVE = {
    "tour": ("perf_event BPF", "uprobe_multi", "hardware breakpoint"),
    "collectors": (
        "perf_event BPF", "uprobe_multi", "hardware breakpoint", "BTF tracepoint", "raw tracepoint", "OpenCL",
    ),
    "overhead": ("uprobe_multi", "perf_event BPF"),
    "userspace": ("uprobe", "ring buffer", "userspace JIT", "userspace maps", "userspace probe", "clang"),
}  # fmt: skip


def outputs(path: Path) -> str:
    notebook = nbformat.read(path, 4)
    return json.dumps([cell.get("outputs", []) for cell in notebook.cells])


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.needs(*needs)) for n, needs in LIVE.items()]
)
def test_live(name: str, tmp_path: Path) -> None:
    experiment = load_experiment(ROOT / "experiments" / f"{name}.yaml")
    result = run(experiment, source="live", output=tmp_path, force=True)
    assert result.completed, result.points[0].error
    assert not [v for v in result.verdicts if not v.ok], result.verdicts
    point = result.points[0]
    assert point.html.stat().st_size > 100_000
    assert "image/png" in outputs(point.notebook)
    recordings = [p.parent for p in point.folder.glob("*/manifest.json")]
    assert recordings and all(load(folder).status == "complete" for folder in recordings)


def test_reproduce_needs_no_root(tmp_path: Path) -> None:
    """The paper re-executes from datasets/ without a single capability, and every claim holds."""
    # Without privilege to begin with, this is what runs anyway. (Another user could not read every checkout.)
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    done = subprocess.run(
        [*drop, sys.executable, "-m", "workbench", "reproduce", str(PAPER), "-o", str(tmp_path / "out"), "--json"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "WORKBENCH_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    claims = json.loads(done.stdout)["claims"]
    assert len(claims) >= 25 and all(claim["ok"] for claim in claims)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else; test_live is that test here")
@pytest.mark.needs("userspace JIT", "userspace maps", "userspace probe", "clang")
def test_user_space_live_without_privilege(tmp_path: Path) -> None:
    """Notebook 03 live by an ordinary user: the kernel's half of the results comes from the recording."""
    tmp_path.chmod(0o777)
    drop = [
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all,+dac_read_search",
        # The interpreter may lie in a folder that only root may enter; nothing else is kept.
        "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
    ]  # fmt: skip
    own = {"HOME": "", "XDG_CACHE_HOME": "cache", "WORKBENCH_CACHE": "cache", "WORKBENCH_NAMESPACES": "namespaces"}
    done = subprocess.run(
        [*drop, sys.executable, "-m", "workbench", "run", str(ROOT / "experiments" / "userspace.yaml"), "--live",
         "--force", "-o", str(tmp_path / "out"), "--json"],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, **{name: str(tmp_path / value) for name, value in own.items()}},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    claims = {claim["claim"]: claim for claim in json.loads(done.stdout)["claims"]}
    unmeasured = [name for name in claims if "cheapest hit" in name]
    assert {name for name, claim in claims.items() if not claim["ok"]} == set(unmeasured)
    text = outputs(tmp_path / "out" / "userspace" / "03-userspace-runtime.ipynb")
    assert text.count("the kernel takes no program of this user") == 1
    assert "image/png" in text


def test_notebooks_are_saved_without_outputs() -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        assert not any(cell.get("outputs") for cell in notebook.cells), (
            f"{path.name}: clear its outputs"
        )
        assert all(cell["source"] for cell in notebook.cells)
