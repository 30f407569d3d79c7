"""`workbench bpf check|run|maps|progs|dump|gc` as a user calls them: text, JSON in bpftool's shape, bad input."""

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
from bpf_output import Output

from workbench.cli import main
from workbench.errors import CompileFailed
from workbench.objects.build import built_object
from workbench.objects.compile import clang, compile_file

pytestmark = pytest.mark.needs("clang", "userspace JIT", "userspace maps")

SOURCE = """
#include "workbench.h"
#define MAP(name_, type_, key_, value_, entries_) \\
	struct { __uint(type, type_); __uint(max_entries, entries_); __type(key, key_); __type(value, value_); } \\
	name_ SEC(".maps")
struct pair { __u32 number; char text[12]; };
MAP(hash, BPF_MAP_TYPE_HASH, __u32, struct pair, 16);
MAP(array, BPF_MAP_TYPE_ARRAY, __u32, __u64, 2);
MAP(per_cpu, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, 2);
struct { __uint(type, BPF_MAP_TYPE_QUEUE); __uint(max_entries, 8); __type(value, __u64); } queue SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_BLOOM_FILTER); __uint(max_entries, 8); __type(value, __u64); } filter SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 64);
	__uint(key_size, 4);
	__uint(value_size, 8 * 127);
} traces SEC(".maps");

SEC("xdp") int fill(struct xdp_md *ctx)
{
	__u32 key = 7, slot = 1;
	struct pair pair = {.number = 3, .text = "three"};
	__u64 value = 42;

	bpf_map_update_elem(&hash, &key, &pair, BPF_ANY);
	bpf_map_update_elem(&array, &slot, &value, BPF_ANY);
	bpf_map_update_elem(&per_cpu, &slot, &value, BPF_ANY);
	bpf_map_push_elem(&queue, &value, BPF_ANY);
	bpf_map_push_elem(&filter, &value, BPF_ANY);
	return 2;
}
SEC("uprobe") int traced(void *ctx)
{
	void *record = bpf_ringbuf_reserve(&ring, 8, 0);

	bpf_get_stackid(ctx, &traces, BPF_F_USER_STACK);
	if (record)
		bpf_ringbuf_submit(record, 0);
	return 0;
}
char LICENSE[] SEC("license") = "GPL";
"""
REFUSED = """
#include "workbench.h"
__u64 table[8];
SEC("uprobe") int outside(void *ctx)
{
	__u64 i = bpf_get_prandom_u32() % 10;

	return table[i];
}
SEC("uprobe") int fine(void *ctx) { return 0; }
char LICENSE[] SEC("license") = "GPL";
"""
LARGE = """
#include "workbench.h"
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 0x7fffffff);
	__type(key, __u32);
	__type(value, __u64[512]);
} large SEC(".maps");
SEC("xdp") int look(void *ctx)
{
	__u32 key = 0;
	return !bpf_map_lookup_elem(&large, &key);
}
char LICENSE[] SEC("license") = "GPL";
"""

HOLDER = """
import subprocess, sys
import workbench as wb
target = int(sys.argv[2])
loaded = wb.compile(sys.argv[1]).load("userspace", pid=target or None)
loaded.test_run("fill")
if target:
    loaded.attach("traced", "libc:abs")
print(loaded.space.name, flush=True)
sys.stdin.read()
loaded.close()
"""
TARGET = """
import ctypes, sys
absolute = ctypes.CDLL(None).abs
print("ready", flush=True)
for line in sys.stdin:
    print(sum(absolute(-1) for _ in range(int(line))), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verbs")
    for name, text in (("many", SOURCE), ("refused", REFUSED), ("large", LARGE)):
        (folder / f"{name}.bpf.c").write_text(text)
    return folder


@pytest.fixture(autouse=True)
def namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Namespaces of this test alone, in shared memory where there is some."""
    shared = Path("/dev/shm")
    base = shared if os.access(shared, os.W_OK) else tmp_path
    own = base / f"workbench-test-{os.getpid()}-{tmp_path.name}"
    own.mkdir(mode=0o700)
    monkeypatch.setenv("WORKBENCH_NAMESPACES", str(own))
    yield own
    shutil.rmtree(own, ignore_errors=True)


@pytest.fixture
def bpf(capsys: pytest.CaptureFixture[str]) -> Output:
    return Output(capsys)


def start(script: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def ask(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdin
    process.stdin.write(text + "\n")
    process.stdin.flush()
    return read(process)


@pytest.fixture
def target() -> Iterator[subprocess.Popen[str]]:
    with start(TARGET) as process:
        assert read(process) == "ready"
        yield process
        process.communicate("")


@pytest.fixture
def holder(folder: Path, namespaces: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has the object loaded, and its namespace."""
    with start(HOLDER, folder / "many.bpf.c", 0) as process:
        yield process, read(process)
        process.communicate("")


# check ----------------------------------------------------------------------------------------------------------------


def test_check_of_what_is_accepted(bpf: Output, folder: Path) -> None:
    text = bpf.of("check", folder / "many.bpf.c")
    assert "2 of 2 programs accepted" in text and text.count("accepted: ") == 2
    one = bpf.json("check", folder / "many.bpf.c", "fill")
    (program,) = one["programs"]
    assert program["name"] == "fill" and program["accepted"] and program["steps"] > 10
    assert program["type"] == "xdp" and program["stack"] >= 16


def test_check_shows_the_states(bpf: Output, folder: Path) -> None:
    text = bpf.of("check", folder / "refused.bpf.c", "fine", "--states")
    assert "exit" in text and "r1=context" in text
    document = bpf.json("check", folder / "refused.bpf.c", "fine", "--states")
    assert [row["text"] for row in document["programs"][0]["frame"]][-1] == "exit"


def test_check_explains_a_refusal(bpf: Output, folder: Path) -> None:
    lines = bpf.of("check", folder / "refused.bpf.c", status=1).splitlines()
    text = "\n".join(lines)
    assert "1 of 2 programs accepted" in text and "REFUSED" in text
    assert "return table[i];" in text and "hint:" in text
    assert "bytes 0 to 79" in text, "what would be accessed"
    assert all(line.startswith("  ") for line in lines[1 : lines.index(next(x for x in lines if "fine" in x))])
    document = bpf.json("check", folder / "refused.bpf.c", status=1)
    outside = next(one for one in document["programs"] if one["name"] == "outside")
    assert not outside["accepted"] and "table[i]" in outside["reason"] and outside["hint"]


def test_check_of_the_projects_own_by_name(bpf: Output) -> None:
    assert "accepted: " in bpf.of("check", "example_calls", "count")


# run ------------------------------------------------------------------------------------------------------------------


def test_run_in_text(bpf: Output, folder: Path) -> None:
    text = bpf.of("run", folder / "many.bpf.c", "fill", "--maps")
    assert text.startswith("Return value: 2, duration (one run, cold): ") and "--repeat" in text
    many = bpf.of("run", folder / "many.bpf.c", "fill", "--repeat", 3)
    assert many.startswith("Return value: 2, duration (average): ")
    assert 'number=3 text="three"' in text
    lines = [line.split() for line in text.splitlines()]
    assert ["1", "42"] in lines, "the array"
    assert "queue" not in text and "ring" not in text, "what has no entries to list is left out"


@pytest.mark.parametrize(
    "backend", ["userspace", pytest.param("kernel", marks=pytest.mark.needs("raw tracepoint", "libbpf"))]
)
def test_run_as_json(bpf: Output, folder: Path, backend: str) -> None:
    document = bpf.json(
        "run", folder / "many.bpf.c", "fill", "--backend", backend, "--hex", "00" * 64, "--repeat", 3, "--maps"
    )
    assert document["backend"] == backend and document["retval"] == 2 and document["repeat"] == 3
    assert document["duration"] >= 0
    assert document["maps"]["hash"][0]["formatted"] == {"key": 7, "value": {"number": 3, "text": "three"}}
    assert [row["formatted"]["value"] for row in document["maps"]["array"]] == [0, 42]


def test_run_reads_a_file(bpf: Output, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "packet").write_bytes(bytes(64))
    assert bpf.json("run", folder / "many.bpf.c", "fill", "--data", tmp_path / "packet")["retval"] == 2


# maps, progs, dump ----------------------------------------------------------------------------------------------------

MAP_KEYS = {"id", "type", "name", "flags", "bytes_key", "bytes_value", "max_entries", "bytes_memlock", "pids"}
PROGRAM_KEYS = {
    "id", "type", "name", "tag", "gpl_compatible", "loaded_at", "uid", "bytes_xlated", "map_ids", "pids",
}  # fmt: skip
"""What `bpftool --json map show` and `prog show` print (bpftool-map(8), bpftool-prog(8))."""


def test_maps(bpf: Output, holder: tuple[subprocess.Popen[str], str]) -> None:
    process, namespace = holder
    rows = bpf.json("maps", namespace)
    assert all(row.keys() >= MAP_KEYS for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert {"hash", "array", "per_cpu", "queue", "filter", "ring", "traces"} <= set(by_name)
    assert by_name["hash"]["type"] == "hash" and by_name["hash"]["bytes_value"] == 16
    assert by_name["filter"]["type"] == "bloom_filter" and by_name["ring"]["type"] == "ringbuf"
    assert process.pid in {one["pid"] for one in by_name["hash"]["pids"]}
    assert all(set(one) == {"pid", "comm"} for one in by_name["hash"]["pids"])
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    text = bpf.of("maps").splitlines()
    assert text[0].split()[:4] == ["namespace", "id", "type", "name"] and len(text) == len(rows) + 1


def test_progs(bpf: Output, holder: tuple[subprocess.Popen[str], str]) -> None:
    process, namespace = holder
    rows = bpf.json("progs", namespace)
    assert [row["name"] for row in rows] == ["fill", "traced"]
    assert all(row.keys() >= PROGRAM_KEYS for row in rows)
    assert rows[0]["pids"][0]["pid"] == process.pid and rows[0]["gpl_compatible"]
    maps = {row["id"] for row in bpf.json("maps", namespace)}
    assert set(rows[0]["map_ids"]) <= maps
    text = bpf.of("progs")
    assert "many.bpf.o" in text and f"({process.pid})" in text
    process.communicate("")
    assert bpf.json("progs") == [] and "no programs" in bpf.of("progs")


def test_dump(bpf: Output, holder: tuple[subprocess.Popen[str], str]) -> None:
    _, namespace = holder
    assert bpf.json("dump", namespace, "hash") == [
        {
            "key": ["0x07", "0x00", "0x00", "0x00"],
            "value": ["0x03", "0x00", "0x00", "0x00", *(f"0x{byte:02x}" for byte in b"three".ljust(12, b"\0"))],
            "formatted": {"key": 7, "value": {"number": 3, "text": "three"}},
        }
    ]
    rows = bpf.json("dump", namespace, "per_cpu")
    assert sum(one["value"] for one in rows[1]["formatted"]["values"]) == 42
    assert rows[1].keys() == {"key", "values", "formatted"} and rows[1]["values"][0].keys() == {"cpu", "value"}
    lines = bpf.of("dump", namespace, "per_cpu").splitlines()
    assert lines[0].split()[0] == "key" and lines[0].split()[-1] == "sum" and lines[2].split()[-1] == "42"
    assert lines[-1] == "Found 2 elements"
    number = next(row["id"] for row in bpf.json("maps", namespace) if row["name"] == "array")
    assert len(bpf.json("dump", namespace, number)) == 2, "by id"


@pytest.mark.parametrize(("name", "hint"), [("queue", "pop"), ("filter", "ask it"), ("ring", "ColumnReader")])
def test_dump_of_what_has_no_keys(
    bpf: Output, holder: tuple[subprocess.Popen[str], str], name: str, hint: str
) -> None:
    text = bpf.of("dump", holder[1], name, status=2)
    assert f"map {name!r} cannot be dumped" in text and hint in text


@pytest.mark.needs("raw tracepoint", "libbpf")
def test_dump_is_what_bpftool_prints(bpf: Output, folder: Path) -> None:
    """The kernel's map by bpftool, ours by us: one JSON."""
    import workbench as wb

    if shutil.which("bpftool") is None:
        pytest.skip("no bpftool to compare with")
    obj = wb.compile(folder / "many.bpf.c")
    from workbench.cli.bpf.dump import entries

    with obj.load("kernel", programs=["fill"]) as kernel, obj.load("userspace", programs=["fill"]) as ours:
        kernel.test_run("fill")
        ours.test_run("fill")
        ids = json.loads(subprocess.run(["bpftool", "-j", "map", "show"], capture_output=True, check=True).stdout)
        prog = json.loads(subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, check=True).stdout)
        mine = [one for one in prog if one.get("name") == "fill"][-1]["map_ids"]
        for name in ("hash", "array"):
            (number,) = [one["id"] for one in ids if one.get("name") == name and one["id"] in mine]
            dumped = subprocess.run(
                ["bpftool", "-j", "map", "dump", "id", str(number)], capture_output=True, check=True
            ).stdout
            assert entries(ours.maps[name]) == json.loads(dumped)


@pytest.mark.needs("userspace probe")
def test_links(bpf: Output, folder: Path, namespaces: Path, target: subprocess.Popen[str]) -> None:
    assert bpf.json("links") == [] and "no links" in bpf.of("links")
    with start(HOLDER, folder / "many.bpf.c", target.pid) as process:
        namespace = read(process)
        assert ask(target, "7") == "7"
        (row,) = bpf.json("links", namespace)
        assert row.keys() >= {"id", "type", "prog_id", "pids", "func_cnt", "funcs"}, "bpftool-link(8)"
        assert (row["type"], row["program"], row["target"], row["hits"]) == ("uprobe", "traced", target.pid, 7)
        assert row["func_cnt"] == 1 and "abs" in row["funcs"][0]["name"]
        assert [one["pid"] for one in row["pids"]] == [process.pid]
        (program,) = [one for one in bpf.json("progs", namespace) if one["id"] == row["prog_id"]]
        assert program["name"] == "traced"
        ask(target, "3")
        assert bpf.json("links")[0]["hits"] == 10
        text = bpf.of("links").splitlines()
        assert text[0].split()[:3] == ["namespace", "id", "type"] and f"({target.pid})" in text[1]
        process.communicate("")
    assert bpf.json("links") == []


# bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["check", "MANY", "filll"], 2, "did you mean 'fill'?"),
        (["run", "MANY", "filll"], 2, "did you mean 'fill'?"),
        (["check", "exmple_calls"], 2, "did you mean 'example_calls'?"),
        (["check", "FOLDER/nothing.o"], 2, "there is no file"),
        (["run", "MANY", "fill", "--hex", "0"], 2, "hexadecimal"),
        (["run", "MANY", "fill", "--data", "FOLDER/nothing"], 2, "No such file"),
        (["run", "MANY", "fill", "--repeat", "0"], 2, "give 1 or more"),
        (["run", "MANY", "fill", "--hex", "00"], 2, "packet"),
        (["run", "FOLDER/refused.bpf.c", "outside"], 1, "return table[i];"),
        (["run", "FOLDER/large.bpf.c", "look"], 3, "lower max_entries"),
        (["dump", "nowhere", "hash"], 2, "there is no namespace 'nowhere'"),
    ],
)
def test_bad_input(bpf: Output, folder: Path, words: list[str], status: int, text: str) -> None:
    full = [word.replace("FOLDER", str(folder)).replace("MANY", str(folder / "many.bpf.c")) for word in words]
    assert text in bpf.of(*full, status=status)


def test_dump_of_a_map_that_is_not_there(bpf: Output, holder: tuple[subprocess.Popen[str], str]) -> None:
    assert "did you mean 'hash'?" in bpf.of("dump", holder[1], "hush", status=2)


def test_files_that_are_no_objects(bpf: Output, tmp_path: Path) -> None:
    (tmp_path / "text.o").write_text("not an object")
    (tmp_path / "empty.o").touch()
    for verb in ("check", "disasm"):
        for name in ("text.o", "empty.o"):
            assert "not a 64-bit little-endian ELF file" in bpf.of(verb, tmp_path / name, status=2)
    (tmp_path / "folder.o").mkdir()
    assert "Is a directory" in bpf.of("check", tmp_path / "folder.o", status=2)
    assert "not BPF" in bpf.of("check", sys.executable, status=2)
    (tmp_path / "short.o").write_bytes(built_object("bench_ring").read_bytes()[:700])
    assert "past the end of the file" in bpf.of("check", tmp_path / "short.o", status=2)
    (tmp_path / "wrong.bpf.c").write_text("int x = ;\n")
    wrong = bpf.of("check", tmp_path / "wrong.bpf.c", status=2)
    assert "wrong.bpf.c:1:9" in wrong and "expected expression" in wrong and "hint" not in wrong
    other = tmp_path / "other.o"
    subprocess.run(
        [clang(), "-target", "bpfeb", "-O2", "-g", "-c", "-x", "c", "-o", other, "-"],
        input="int f(void *c) { return 1; }", text=True, check=True,
    )  # fmt: skip
    assert "the other byte order" in bpf.of("check", other, status=2)
    assert "clang -target bpfel" in bpf.of("check", other, status=2)


def test_warnings_of_c_are_shown_and_no_error(
    bpf: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))  # a cached object shows none
    source = tmp_path / "warned.bpf.c"
    source.write_text(
        '#include "workbench.h"\n'
        'SEC("uprobe") int one(void *ctx) { int unused; return 1; }\n'
        'char LICENSE[] SEC("license") = "GPL";\n'
    )
    assert main(["bpf", "disasm", str(source), "--lines"]) == 0
    out, err = bpf.capsys.readouterr()
    assert "warned.bpf.c:2" in out and "w0 = 0x1" in out
    assert "warning: unused variable" in err
    with pytest.raises(CompileFailed, match="unused variable"):
        compile_file(source, tmp_path / "strict.o", strict=True)


def test_hints_fit_what_clang_says(bpf: Output, tmp_path: Path) -> None:
    source = tmp_path / "c.bpf.c"
    source.write_text('#include "nowhere.h"\n')
    assert "headers are looked for" in bpf.of("check", source, status=2)
    source.write_text("struct t;\nint f(struct t *t) { return t->pid; }\n")
    assert "preserve_access_index" in bpf.of("check", source, status=2)


# gc -------------------------------------------------------------------------------------------------------------------


def test_gc_with_nothing_to_do(bpf: Output, holder: tuple[subprocess.Popen[str], str]) -> None:
    assert "nothing to collect" in bpf.of("gc")
    assert bpf.json("maps", holder[1]), "what lives is left alone"


@pytest.mark.needs("userspace probe")
def test_gc_after_a_loader_was_killed(
    bpf: Output, folder: Path, namespaces: Path, target: subprocess.Popen[str]
) -> None:
    """The hooks of a killed loader keep running in the target; gc restores its code and frees the memory."""
    before = ask(target, "10")
    with start(HOLDER, folder / "many.bpf.c", target.pid) as process:
        namespace = read(process)
        code = _code(target.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert ask(target, "10") == before, "the target goes on with the hook of a dead loader"
    assert main(["bpf", "links"]) == 0
    told = bpf.capsys.readouterr().err
    assert f"process {target.pid} still has 1 hooks" in told and "workbench bpf gc" in told
    document = bpf.json("gc")
    assert [(one["pid"], one["sites"], one["problem"]) for one in document["processes"]] == [(target.pid, 1, "")]
    assert _code(target.pid) != code, "the first bytes of abs are its own again"
    assert ask(target, "10") == before
    # The target's threads are in the namespace while it lives.
    target.communicate("")
    freed = {one["name"] for one in [*document["namespaces"], *bpf.json("gc")["namespaces"]]}
    assert namespace in freed
    assert not [path for path in namespaces.iterdir() if path.is_dir() or path.suffix == ".hooks"]
    assert "nothing to collect" in bpf.of("gc")


def _code(pid: int) -> bytes:
    """The first bytes of libc's abs in a process."""
    from workbench.collectors.resolve import Modules, resolve_function
    from workbench.runtime.attach.files import addresses_of

    (place,) = resolve_function(Modules(pid), "libc:abs")
    (address,) = addresses_of(pid, place.path, [place.file_offset])
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        memory.seek(address)
        return memory.read(5)
