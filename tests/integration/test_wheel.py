"""The wheel holds all that runs without a compiler, and imports from where it was installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from workbench.native.bitcode import SOURCES

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files under version control (and new ones), without anything that was built."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folder = tmp_path_factory.mktemp("check out")  # a path with a space
    wanted = ("workbench/", "bpf/", "pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in")
    for name in filter(None, listed.split("\0")):
        if name.startswith(wanted) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(target),
    ]  # fmt: skip
    run = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (built,) = target.glob("*.whl")
    return built


@pytest.mark.needs("C compiler", "clang")
def test_wheel_is_for_this_platform_and_any_python(wheel: Path) -> None:
    assert wheel.name.startswith("bpf_workbench-")
    assert "-py3-none-linux_" in wheel.name


@pytest.mark.needs("C compiler", "clang")
def test_wheel_holds_core_objects_and_headers(wheel: Path, checkout: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "workbench/native/_core.so" in names
    agents = {path.stem for path in (checkout / "workbench/native/agents").glob("*.c")}
    assert agents and {f"workbench/native/agents/{name}.so" for name in agents} <= names
    workloads = {path.stem for path in (checkout / "workbench/native/workloads").glob("*.c")}
    assert workloads and {f"workbench/native/workloads/{name}" for name in workloads} <= names
    programs = {path.name.removesuffix(".bpf.c") for path in (checkout / "bpf").glob("*.bpf.c")}
    built = {Path(name).name.split(".")[0] for name in names if name.startswith("workbench/objects/built/")}
    assert programs and built == programs
    headers = {f"workbench/objects/include/{path.name}" for path in (checkout / "bpf").glob("*.h")}
    assert headers and headers <= names
    runtime = checkout / "workbench/native/runtime"
    carried = {str(path.relative_to(checkout)) for path in (*runtime.rglob("*.c"), *runtime.rglob("*.h"))}
    bitcode = {f"workbench/native/runtime/bitcode/{Path(name).stem}.bc" for name in SOURCES}
    assert carried and carried | bitcode <= names
    assets = {str(path.relative_to(checkout)) for path in checkout.glob("workbench/notebook/assets/*")}
    assert assets <= names
    assert not any(name.startswith(("tests/", "bpf/")) for name in names)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to put into PYTHONPATH: the wheel unpacked by pip, and nothing of the checkout."""
    target = tmp_path_factory.mktemp("installed") / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    return target


SCRIPT = """
import json, workbench
from workbench.native.library import load
from workbench.objects.build import built_object
load()
print(json.dumps({"home": workbench.__file__, "object": str(built_object(PROGRAM)), "version": workbench.__version__}))
"""


@pytest.mark.needs("C compiler", "clang")
def test_installed_wheel_imports_and_finds_its_binaries(
    installed: Path, wheel: Path, checkout: Path, tmp_path: Path
) -> None:
    program = sorted((checkout / "bpf").glob("*.bpf.c"))[0].name.removesuffix(".bpf.c")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("PROGRAM", repr(program))],
        env={**os.environ, "PYTHONPATH": str(installed)}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(run.stdout)
    assert Path(found["home"]).is_relative_to(installed)
    assert Path(found["object"]).is_relative_to(installed)
    assert Path(found["object"]).read_bytes()[:4] == b"\x7fELF"
    assert f"-{found['version']}-" in wheel.name


BUSY = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: sum(range(1000))"


@pytest.mark.needs("C compiler", "clang", "perf_event BPF")
def test_installed_wheel_records_and_draws_without_compilers(installed: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"  # a PATH without compilers: what is in the wheel has to do
    tools.mkdir()
    environment = {
        "PATH": str(tools), "PYTHONPATH": str(installed), "HOME": str(tmp_path), "PYTHONSAFEPATH": "1",
    }  # fmt: skip

    def workbench(*arguments: str) -> str:
        command = [sys.executable, "-m", "workbench", *arguments]
        run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    rows = {row["name"]: row for row in json.loads(workbench("doctor", "--json"))}
    assert rows["native core"]["ok"] and rows["perf_event BPF"]["ok"]
    assert not rows["clang"]["ok"] and rows["clang"]["remedy"]
    workbench("record", "-c", "cpu:999", "-o", "recording", "--", sys.executable, "-c", BUSY)
    report = json.loads(workbench("report", "recording", "--json", "--html", "page.html", "--figure", "flame.svg"))
    assert report["written"] == {"flamegraph": "flame.svg", "html": "page.html"}
    page = (tmp_path / "page.html").read_text()
    for kind in ("flamegraph", "timeline", "heatmap"):
        assert f'data-kind="{kind}"' in page
    assert (tmp_path / "flame.svg").read_text().count("<path") > 20


USERSPACE = """
import json, subprocess, sys
import workbench as wb
from workbench.objects.build import built_object
from workbench.runtime.jit.bitcode import FOLDER

child = subprocess.Popen(
    [sys.executable, "-c", "import ctypes, sys; f = ctypes.CDLL(None).abs; print('ready', flush=True)\\n"
     "for line in sys.stdin: print(sum(f(-1) for _ in range(int(line))), flush=True)"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
)
child.stdout.readline()
with wb.open(built_object("example_calls")).load("userspace", pid=child.pid) as loaded:
    loaded.attach("called", "libc:abs")
    child.stdin.write("100\\n")
    child.stdin.flush()
    answer = child.stdout.readline().strip()
    _, counts = loaded.maps["counts"].table()
    print(json.dumps({"answer": answer, "calls": int(counts.sum()), "bitcode": str(FOLDER)}))
child.communicate("")
"""


@pytest.mark.needs("C compiler", "clang", "userspace JIT", "userspace maps", "userspace probe")
def test_installed_wheel_probes_in_user_space_without_compilers(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    run = subprocess.run(
        [sys.executable, "-P", "-c", USERSPACE],
        env={"PATH": str(tmp_path / "bin"), "PYTHONPATH": str(installed), "HOME": str(tmp_path)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["answer"] == "100" and found["calls"] == 100
    assert Path(found["bitcode"]).is_relative_to(installed) and list(Path(found["bitcode"]).glob("*.bc"))
