"""Uprobes on real programs: every count is checked against what the program says it did."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from memory_sink import MemorySink
from probe_support import compile_c, losses, run_collector
from uprobe_programs import CALLS, FORK_C, WAITING

from workbench.collectors.base import Target
from workbench.collectors.recorder import Recorder
from workbench.collectors.registry import make
from workbench.collectors.target import attach_target, machine_target
from workbench.errors import MissingCapability, NotPermitted, TargetGone, UnknownSymbol

pytestmark = pytest.mark.needs("uprobe")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("targets")


@pytest.fixture(scope="module")
def calls(folder):
    return compile_c(folder, "calls", CALLS, "-g", "-O1", "-fno-optimize-sibling-calls", "-pthread")


@pytest.fixture(scope="module")
def plain(folder):
    flags = ("-O1", "-fno-optimize-sibling-calls", "-pthread", "-no-pie", "-static")
    return compile_c(folder, "plain", CALLS, *flags)


def test_ten_arguments_of_every_kind_come_typed_from_debug_information(calls):
    _, sink, _ = run_collector("uprobe:ten,return=yes", [calls])
    rows = sink.frame("calls")
    assert len(rows) == 100 and (rows["event"] == "call").all() and (rows["duration"] > 0).all()
    first = rows.iloc[0]
    assert [first[f"arg_{n}"] for n in ("c", "u", "e", "b", "text", "seven", "eight", "nine", "ten")] == [
        -1, 65535, 7, 1, "hello", -7, -8000000000, -9, 4000000000,
    ]  # fmt: skip
    assert (
        first["arg_p"] > 0x1000
        and sink.declared["arg_text"] == "str"
        and sink.declared["arg_c"] == "int64"
    )
    assert first["result"] == -1 + 65535 + 7 + 1 + 5 + 1 - 7 - 8000000000 - 9 + 4000000000
    assert losses(sink) == {}
    assert sink.frame("probe_counts")["hits"].tolist() == [100]


def test_a_declared_signature_serves_where_there_is_no_debug_information(plain):
    spec = "uprobe:ten(signed char a, unsigned short, int, _Bool, const char *text, "
    spec += "void *, int g, long h, char, unsigned j)"
    _, sink, _ = run_collector(spec + ",string=8", [plain])
    first = sink.frame("calls").iloc[0]
    assert [first[f"arg_{n}"] for n in ("a", "1", "text", "g", "h", "j")] == [-1, 65535, "hello", -7, -8000000000,
                                                                             4000000000]  # fmt: skip


def test_results_have_the_sign_and_width_of_their_type(calls):
    _, sink, _ = run_collector("uretprobe:negative", [calls])
    rows = sink.frame("calls")
    assert rows["result"].tolist() == [-i for i in range(1, 21)]
    assert (rows["event"] == "return").all() and (rows["duration"] == -1).all()


def test_every_frame_of_a_recursion_is_joined_with_its_own_return(calls):
    _, sink, _ = run_collector("uprobe:factorial,return=yes", [calls])
    rows = sink.frame("calls")
    found = dict(zip(rows["arg_n"], rows["result"], strict=True))
    assert len(rows) == 10 and found[10] == 3628800 and found[5] == 120
    ordered = rows.sort_values("arg_n")
    assert ordered["duration"].is_monotonic_increasing  # the outer call lasts longer
    assert losses(sink) == {}


def test_a_function_left_by_longjmp_is_counted_and_harms_nothing(calls):
    _, sink, _ = run_collector("uprobe:jumper,return=yes", [calls])
    rows = sink.frame("calls")
    assert sorted(rows["arg_x"]) == [0, 2, 4, 6, 8]
    assert sum(n for cause, n in losses(sink).items() if "longjmp" in cause) == 5


def test_threads_made_later_are_recorded(calls):
    _, sink, _ = run_collector("uprobe:worker,return=yes", [calls])
    rows = sink.frame("calls")
    assert len(rows) == 1000 and rows["tid"].nunique() == 4 and rows["pid"].nunique() == 1
    assert (rows["result"] == 2 * rows["arg_thread"]).all()


@pytest.mark.parametrize("attach", ["multi", "events"])
def test_static_program_without_pie_and_both_ways_to_attach(plain, attach):
    collector, sink, _ = run_collector(
        f"uprobe:factorial,return=yes,args=no,attach={attach}", [plain]
    )
    assert len(sink.frame("calls")) == 10
    assert next(iter(collector.noted.values()))["attach"] == attach


def test_address_offset_and_symbol_name_the_same_place(calls):
    from workbench.collectors.resolve import resolve_function

    with subprocess.Popen([calls], stdout=subprocess.DEVNULL) as process:
        process.wait()
    place = resolve_function(None, f"{calls}:negative")[0]
    specs = [
        f"uprobe:{calls}+{place.file_offset:#x}",
        f"uprobe:{calls}:{place.vaddr:#x}",
        "uprobe:neg*ive",
    ]
    for spec in specs:
        _, sink, _ = run_collector(spec + ",count=yes", [calls])
        assert sink.frame("probe_counts")["hits"].tolist() == [20], spec


def test_counting_and_latencies_need_no_event(calls):
    collector, sink, _ = run_collector("uprobe:worker,latency=yes", [calls])
    assert "calls" not in sink.parts and collector.frames == ("probe_counts", "probe_latencies")
    counts, buckets = sink.frame("probe_counts"), sink.frame("probe_latencies")
    assert counts[["hits", "returns"]].sum().tolist() == [1000, 1000]
    assert (
        buckets["count"].sum() == 1000 and buckets["total"].sum() == counts["total_duration"].sum()
    )
    mean = buckets["total"] / buckets["count"]
    assert ((buckets["bucket_low"] <= mean) & (mean < buckets["bucket_high"])).all()
    cost = sink.frame("overhead").iloc[0]
    assert cost["hits"] == 1000 and 0 < cost["cost_low"] <= cost["cost"] <= cost["cost_high"]
    assert cost["total"] == pytest.approx(1000 * cost["cost"])


@pytest.mark.parametrize("stacks", ["yes", "fp"])
def test_stacks_begin_at_the_function(folder, stacks):
    source = "__attribute__((noinline)) int leaf(int x) { __asm__ volatile(\"\"); return x + 1; }\n" \
             "__attribute__((noinline)) int mid(int x) { return leaf(x) + 1; }\n" \
             "#include <unistd.h>\nint main(void) { int s = 0; for (int i = 0; i < 50; i++) s += mid(i); " \
             "char c; read(0, &c, 0); return s == 0; }"  # fmt: skip
    flags = [
        "-O1",
        "-fno-optimize-sibling-calls",
        *(["-fno-omit-frame-pointer"] if stacks == "fp" else []),
    ]
    program = compile_c(folder, f"stacks_{stacks}", source, *flags)
    for option in ("", ",return=yes"):
        recorder = Recorder(
            [f"uprobe:leaf,stacks={stacks}{option}"],
            output=folder / "recording",
            command=[program],
            stdin=subprocess.DEVNULL,
            overwrite=True,
        )
        recording = recorder.start().result()
        rows = recording.frame("calls")
        assert len(rows) == 50 and rows["stack"].nunique() == 1
        frames = (
            recording.frame("stacks").query("stack == @rows['stack'].iloc[0]").sort_values("depth")
        )
        assert frames["function"].tolist()[:3] == ["leaf", "mid", "main"], option


def test_cxx_functions_by_readable_name(folder):
    source = """
    #include <string>
    namespace shop { struct Cart { int n = 0; __attribute__((noinline)) int add(int count); };
    int Cart::add(int count) { __asm__ volatile(""); return n += count; } }
    int main() { shop::Cart c; for (int i = 0; i < 30; i++) c.add(2); return c.n != 60; }
    """
    program = compile_c(folder, "cart", source, "-g", "-O1", compiler="g++")
    _, sink, _ = run_collector("uprobe:shop::Cart::add,return=yes", [program])
    rows = sink.frame("calls")
    assert rows["result"].tolist() == list(range(2, 62, 2)) and (rows["arg_count"] == 2).all()
    assert rows["arg_this"].nunique() == 1


SQLITE = """
import sqlite3
c = sqlite3.connect(":memory:")
c.execute("create table t(a)")
for i in range(200):
    c.execute("insert into t values(?)", (i,))
print(c.execute("select count(*) from t").fetchall())
"""


def _python_with_system_sqlite() -> str:
    for candidate in ("/usr/bin/python3", sys.executable):
        if Path(candidate).exists():
            done = subprocess.run(
                [candidate, "-c", "import _sqlite3; print('libsqlite3' in open('/proc/self/maps').read())"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.stdout.strip() == "True":
                return candidate
    raise AssertionError("no Python with a shared libsqlite3: install python3 and libsqlite3-0")


def test_a_library_loaded_later_is_probed_and_literals_are_read():
    python = _python_with_system_sqlite()
    spec = "uprobe:libsqlite3:sqlite3_prepare_v2(void *db, const char *sql, int bytes),return=yes"
    _, sink, _ = run_collector(spec, [python, "-S", "-c", SQLITE])
    rows = sink.frame("calls")
    assert (rows["arg_sql"] == "create table t(a)").sum() == 1
    assert (rows["arg_sql"] == "select count(*) from t").sum() == 1
    assert (rows["result"] == 0).all()


def test_hundreds_of_functions_by_pattern_in_one_link():
    python = _python_with_system_sqlite()
    collector, sink, out = run_collector(
        "uprobe:libsqlite3:sqlite3_*,count=yes", [python, "-S", "-c", SQLITE]
    )
    assert len(collector.plan.sites) > 200 and "[(200,)]" in out
    counts = sink.frame("probe_counts").set_index("function")["hits"]
    assert counts["sqlite3_open_v2"] == 1 and counts["sqlite3_bind_int64"] == 200
    assert counts["sqlite3_step"] >= 202


def test_two_thousand_sites_of_one_library(folder):
    count = 2000
    body = "\n".join(f"int gen_{i}(int x) {{ return x + {i}; }}" for i in range(count))
    body += "\nint (*all[])(int) = {" + ",".join(f"gen_{i}" for i in range(count)) + "};"
    library = compile_c(
        folder, "libgen.so", body, "-shared", "-fPIC", "-O1", "-fcf-protection=none"
    )
    main = f"extern int (*all[])(int); int main(void) {{ for (int i = 0; i < {count}; i++) all[i](i); return 0; }}"
    program = compile_c(folder, "many", main, "-O1", library, f"-Wl,-rpath,{folder}")
    collector, sink, _ = run_collector("uprobe:libgen:gen_*", [program])
    rows = sink.frame("calls")
    assert (
        len(collector.plan.sites) == count
        and len(rows) == count
        and rows["function"].nunique() == count
    )


def test_one_place_that_the_kernel_refuses_does_not_lose_the_others(folder):
    source = """
    __asm__(".text\\n.globl bad_lock\\n.type bad_lock,@function\\n"
            "bad_lock: lock incl (%rdi)\\nret\\n.size bad_lock,.-bad_lock\\n"
            ".globl bad_vm\\n.type bad_vm,@function\\nbad_vm: lgdt (%rdi)\\nret\\n.size bad_vm,.-bad_vm\\n"
            ".globl bad_trap\\n.type bad_trap,@function\\nbad_trap: int3\\nret\\n.size bad_trap,.-bad_trap\\n"
            ".globl bad_ones\\n.type bad_ones,@function\\nbad_ones: vpcmpeqd %xmm0,%xmm0,%xmm0\\n"
            "vmovq %xmm0,%rax\\nret\\n.size bad_ones,.-bad_ones\\n");
    void bad_lock(int *);
    long bad_ones(void);
    int printf(const char *, ...);
    __attribute__((noinline)) int bad_not(int x) { __asm__ volatile(""); return x; }
    int main(void) {
      int n = 0;
      for (int i = 0; i < 5; i++) { bad_lock(&n); bad_not(i); }
      __asm__ volatile("pxor %%xmm0, %%xmm0" ::: "xmm0");
      printf("%ld", __builtin_cpu_supports("avx") ? bad_ones() : -1);
      return 0;
    }
    """
    program = compile_c(folder, "refused", source, "-O1")
    collector, sink, printed = run_collector("uprobe:bad_*,count=yes", [program])
    # vpcmpeqd has the opcode byte of je: kernels that emulate it as that leave the register as it was.
    assert printed == "-1"
    assert sink.frame("probe_counts").set_index("function")["hits"].to_dict()["bad_not"] == 5
    notes = next(iter(collector.noted.values()))
    assert any("bad_lock" in one and "lock" in one for one in notes["left_out"])
    assert any("bad_trap" in one for one in notes["left_out"])
    assert any("bad_ones" in one and "vector" in one for one in notes["left_out"])


def test_children_exactly_by_scope_and_late_by_attach_process(folder):
    program = compile_c(folder, "forks", FORK_C, "-O1")
    _, sink, _ = run_collector("uprobe:work,children=exact", [program])
    rows = sink.frame("calls")
    assert rows.groupby("pid").size().tolist() == [10, 30]
    _, sink, _ = run_collector("uprobe:work,children=no", [program])
    assert len(sink.frame("calls")) == 10

    collector, sink = make("uprobe:work"), MemorySink()
    with subprocess.Popen(
        [program, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        child = int(process.stdout.readline())
        collector.attach(Target(process.pid, pids={process.pid}), sink)
        collector.attach_process(child)
        assert "first calls of 1 children" in collector.notes()["probe uprobe:work"]["left_out"][0]
        process.communicate("x", timeout=20)
    collector.detach()
    collector.drain()
    collector.finish()
    assert sink.frame("calls")["pid"].tolist() == [child] * 30


def test_the_whole_machine(calls):
    collector, sink = make(f"uprobe:{calls}:negative"), MemorySink()
    collector.attach(machine_target(), sink)
    pids = []
    for _ in range(2):
        with subprocess.Popen([calls], stdout=subprocess.DEVNULL) as process:
            pids.append(process.pid)
    collector.detach()
    collector.drain()
    collector.finish()
    assert sink.frame("calls").groupby("pid").size().to_dict() == dict.fromkeys(pids, 20)


@pytest.fixture(scope="module")
def waiting(folder):
    return compile_c(folder, "waiting", WAITING, "-O1")


def _start(waiting, **options):
    process = subprocess.Popen(
        [waiting], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )
    return process, int(process.stdout.readline(), 16)


def _burst(process) -> None:
    process.stdin.write("x")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def _bytes(pid: int, address: int) -> bytes:
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        memory.seek(address)
        return memory.read(8)


def test_two_recorders_see_all_hits_and_detach_restores_the_code(waiting):
    process, address = _start(waiting)
    with process:
        before = _bytes(process.pid, address)
        pair = [(make("uprobe:tick"), MemorySink()) for _ in range(2)]
        for collector, sink in pair:
            collector.attach(attach_target(process.pid), sink)
        assert _bytes(process.pid, address) != before
        _burst(process)
        pair[0][0].detach()
        _burst(process)
        pair[1][0].detach()
        assert _bytes(process.pid, address) == before
        for collector, _ in pair:
            collector.drain()
            collector.finish()
        assert [len(sink.frame("calls")) for _, sink in pair] == [100, 200]
        process.stdin.close()


def test_killing_the_recorder_leaves_no_probe(waiting):
    process, address = _start(waiting)
    script = (
        "import sys,time; sys.path.insert(0, sys.argv[2])\n"
        "from memory_sink import MemorySink\n"
        "from workbench.collectors.registry import make\n"
        "from workbench.collectors.target import attach_target\n"
        "c = make('uprobe:tick,return=yes'); c.attach(attach_target(int(sys.argv[1])), MemorySink())\n"
        "print('attached', flush=True); time.sleep(60)\n"
    )
    support = str(Path(__file__).parents[2] / "support")
    with process:
        before = _bytes(process.pid, address)
        recorder = subprocess.Popen(
            [sys.executable, "-c", script, str(process.pid), support],
            stdout=subprocess.PIPE,
            text=True,
        )
        with recorder:
            assert recorder.stdout.readline() == "attached\n"
            assert _bytes(process.pid, address) != before
            _burst(process)
            recorder.send_signal(signal.SIGKILL)
        # The kernel detaches when the last descriptor is gone, after a grace period: wait for the bytes, not a time.
        for _ in range(200):
            if _bytes(process.pid, address) == before:
                break
            select.select([], [], [], 0.02)
        assert _bytes(process.pid, address) == before
        _burst(process)
        process.stdin.close()


def test_unknown_symbols_libraries_and_stripped_files_say_what_to_do(folder, calls):
    with pytest.raises(UnknownSymbol) as error:
        run_collector("uprobe:factorail", [calls])
    assert "factorial" in error.value.hint
    with pytest.raises(UnknownSymbol) as error:
        run_collector("uprobe:zzqqxxkk", [calls])
    assert f"`nm {calls}`" in error.value.hint and f"`nm -D {calls}`" in error.value.hint
    with pytest.raises(UnknownSymbol, match="libnosuch"):
        run_collector("uprobe:libnosuch:f", [calls])
    # Another build than `calls`: symbols of a build that was seen are found by its id, stripped or not.
    stripped = Path(compile_c(folder, "stripped", CALLS, "-O0", "-s", "-pthread"))
    with pytest.raises(UnknownSymbol) as error:
        run_collector(f"uprobe:{stripped}:factorial", [str(stripped)])
    assert "stripped" in error.value.hint and "offsets" in error.value.hint


def test_floating_point_arguments_are_refused_when_declared(calls):
    with pytest.raises(MissingCapability, match="vector registers"):
        run_collector("uprobe:negative(double x)", [calls])


def test_wrong_pid_and_a_process_that_exits(calls, waiting):
    process, _ = _start(waiting)
    with process:
        target = attach_target(process.pid)
        process.stdin.close()
        process.wait()
        with pytest.raises(TargetGone):
            make("uprobe:tick").attach(target, MemorySink())


def test_without_privilege_the_error_says_so(waiting):
    process, _ = _start(waiting)
    with process:
        outcome: list[str] = []

        def child() -> None:
            pid = os.fork()
            if pid:
                outcome.append(str(os.waitpid(pid, 0)[1]))
                return
            status = 1
            try:
                os.setgid(65534)
                os.setuid(65534)
                target = Target(process.pid, pids={process.pid})
                make("uprobe:tick").attach(target, MemorySink())
            except NotPermitted:
                status = 0
            except BaseException as error:
                os.write(2, repr(error).encode())
            finally:
                os._exit(status)

        thread = threading.Thread(target=child)
        thread.start()
        thread.join()
        assert outcome == ["0"]
        process.stdin.close()


def test_a_target_that_becomes_another_program_keeps_its_probes(folder, calls):
    source = "#include <unistd.h>\nint main(int n, char **v) { return execv(v[1], v + 1); }"
    program = compile_c(folder, "becomes", source, "-O1")
    _, sink, _ = run_collector(f"uprobe:{calls}:negative", [program, calls])
    assert len(sink.frame("calls")) == 20


def test_probes_of_one_recording_may_name_arguments_alike(folder, calls):
    """Columns of frame `calls` are shared: the same name with another type becomes another column."""
    collect = ["uprobe:ten", "uprobe:negative(unsigned long seven)", "uprobe:factorial,return=yes"]
    recorder = Recorder(
        collect,
        output=folder / "shared",
        command=[calls],
        stdout=subprocess.DEVNULL,
        overwrite=True,
    )
    rows = recorder.start().result().frame("calls")
    assert rows.groupby("function", observed=True).size().to_dict() == {
        "factorial": 10,
        "negative": 20,
        "ten": 100,
    }
    assert (rows.query("function == 'ten'")["arg_seven"] == -7).all()
    assert rows.query("function == 'negative'")["arg_seven_uint64"].tolist() == list(range(1, 21))


def test_calls_before_the_probes_were_complete_are_no_losses(folder):
    source = "__attribute__((noinline)) int step(int x) { __asm__ volatile(\"\"); return x + 1; }\n" \
             "int main(void) { for (int x = 0;;) x = step(x); }"  # fmt: skip
    program = compile_c(folder, "steps", source, "-O1")
    with subprocess.Popen([program]) as process:
        recorder = Recorder(
            ["uprobe:step,return=yes,count=yes"], output=folder / "r", pid=process.pid, seconds=0.2
        )
        recording = recorder.run()
        process.kill()
    losses = recording.losses.set_index("cause")["lost"]
    assert losses["return without entry: the call was under way at attach"] <= 1
    assert recording.probe_counts["hits"].sum() > 100
