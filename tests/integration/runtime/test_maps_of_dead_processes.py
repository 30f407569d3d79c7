"""Maps that are not pinned go with their loader, also a killed one; pinned ones, and those of the living, stay."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import workbench as wb
from workbench.cli import main
from workbench.errors import WorkbenchError
from workbench.runtime.maps import Space
from workbench.runtime.maps.holding import sweep

pytestmark = pytest.mark.needs("clang", "userspace JIT", "userspace maps")

SOURCE = """
#include "workbench.h"
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} own SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u64);
} shared SEC(".maps");
__u64 runs;

SEC("syscall") int count(void *ctx)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&shared, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
	bpf_map_update_elem(&own, &key, &runs, BPF_ANY);
	runs++;
	return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""
LOADER = """
import sys
import workbench as wb
loaded = wb.open(sys.argv[1]).load("userspace", namespace="shop")
print("loaded", flush=True)
for line in sys.stdin:
    loaded.test_run("count")
    print(loaded.globals["runs"], flush=True)
"""


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of namespace shop, of this test alone."""
    shared = Path("/dev/shm")
    base = shared if os.access(shared, os.W_OK) else tmp_path
    own = base / f"workbench-test-{os.getpid()}-{tmp_path.name}"
    own.mkdir(mode=0o700)
    monkeypatch.setenv("WORKBENCH_NAMESPACES", str(own))
    yield own / "shop"
    shutil.rmtree(own, ignore_errors=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    (folder / "maps.bpf.c").write_text(SOURCE)
    path = folder / "maps.bpf.o"
    path.write_bytes(wb.compile(folder / "maps.bpf.c").data)
    return path


def start(built: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", LOADER, str(built)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "loaded\n"
    return process


def ask(process: subprocess.Popen[str]) -> int:
    assert process.stdin and process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def maps(folder: Path) -> set[str]:
    """Those that the object names; maps of its variables come and go with them."""
    with Space(folder.name) as space:
        return {name for name in space.names() if not name.startswith(".")}


def test_maps_go_with_a_killed_loader(names: Path, built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start(built) as first, start(built) as second:
        assert ask(first) == 1 and ask(second) == 1
        assert maps(names) == {"own", "own:2", "shared"}
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert main(["bpf", "gc", "--json"]) == 0
        (freed,) = json.loads(capsys.readouterr().out)["maps"].values()
        assert "own.map" in freed and "shared.map" not in freed and "own%3A2.map" not in freed
        assert maps(names) == {"own:2", "shared"}
        assert ask(second) == 2, "the living one goes on"
        with wb.open(built).load("userspace", namespace="shop") as loaded:
            assert maps(names) == {"own", "own:2", "shared"}
            loaded.test_run("count")
            assert loaded.maps["shared"][0] == 4
            second.send_signal(signal.SIGKILL)
            second.wait()
        assert maps(names) == {"own:2", "shared"}
    with wb.open(built).load("userspace", namespace="shop") as loaded:
        assert maps(names) == {"own", "shared"}, "the next to load takes out what is left"
        assert loaded.maps["shared"][0] == 4
    assert main(["bpf", "gc"]) == 0
    with Space("shop") as space:
        assert space.names() == ["shared"]
    assert not list(names.glob("*.held"))


def test_a_later_map_of_the_same_name_is_left_alone(names: Path, built: Path) -> None:
    with start(built) as first:
        (note,) = names.glob("*.held")
        said = note.read_bytes()
        os.link(names / "own.map", names.parent / "earlier")  # its inode is not free for another
        first.kill()
        first.wait()
    with wb.open(built).load("userspace", namespace="shop"):
        assert maps(names) == {"own", "shared"}
        (names / "1-late.held").write_bytes(said)
        assert sweep(names) == []
        assert maps(names) == {"own", "shared"}
        assert not (names / "1-late.held").exists()


def test_nothing_stays_of_an_object_that_is_refused(names: Path, built: Path) -> None:
    with pytest.raises(WorkbenchError):
        wb.open(built).load("userspace", namespace="shop", map_sizes={"own": 1 << 31})
    assert maps(names) <= {"shared"}
    assert not list(names.glob("*.held"))


def test_a_damaged_note_removes_nothing_else(names: Path, built: Path) -> None:
    names.mkdir(mode=0o700)
    outside = names.parent / "outside.map"
    outside.write_bytes(b"kept")
    inodes = json.dumps({"own.map": 1, "\0.map": 1, "../outside.map": outside.stat().st_ino})
    for number, text in enumerate(('["own.map", 7, "participants"]', "[", "7", inodes)):
        (names / f"{number}-x.held").write_text(text)
    with wb.open(built).load("userspace", namespace="shop"):
        assert not [one for one in names.glob("*.held") if "-x" in one.name]
    assert outside.read_bytes() == b"kept"
    assert (names / "participants").exists()
