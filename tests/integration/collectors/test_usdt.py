"""USDT marks of real programs, made with systemtap's <sys/sdt.h>."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from probe_support import compile_c, run_collector

from workbench.errors import BadSpec, UnknownSymbol
from workbench.frames.symbols.usdt import read_marks

pytestmark = pytest.mark.needs("uprobe")

SOURCE = """
#ifdef GUARDED
#define _SDT_HAS_SEMAPHORES 1
#endif
#define SDT_USE_VARIADIC
#include <stdio.h>
#include <sys/sdt.h>
#ifdef GUARDED
__extension__ unsigned short app_tick_semaphore __attribute__((unused, section(".probes")));
__extension__ unsigned short app_text_semaphore __attribute__((unused, section(".probes")));
#define ON(x) x
#else
#define ON(x) 1
#endif
struct record { char c; short s; int i; long l; } table[8];
int counter;
__attribute__((noinline)) void tick(int i, struct record *r, const char *name) {
  counter = i * 3;
  if (ON(app_tick_semaphore))
    STAP_PROBE6(app, tick, i, (signed char)r[i & 7].c, r[i & 7].l, 42, counter, (unsigned short)i);
  if (ON(app_text_semaphore)) STAP_PROBE2(app, text, name, i);
}
int main(void) {
  char name[32];
  for (int i = 0; i < 8; i++) { table[i].c = -i; table[i].l = -1000000000000L * i; }
  for (int i = 0; i < 300; i++) { sprintf(name, "name-%d", i); tick(i, table, name); }
#ifdef GUARDED
  printf("%d %d\\n", app_tick_semaphore, app_text_semaphore);
#endif
  return 0;
}
"""


@pytest.fixture(scope="module", params=["plain", "guarded"])
def program(request, tmp_path_factory):
    flags = ["-O2", *(["-DGUARDED"] if request.param == "guarded" else [])]
    return compile_c(tmp_path_factory.mktemp("usdt"), request.param, SOURCE, *flags)


@pytest.mark.parametrize("attach", ["multi", "events"])
def test_arguments_from_registers_memory_and_constants(program, attach):
    _, sink, out = run_collector(f"usdt:app:tick,attach={attach}", [program])
    rows = sink.frame("calls")
    n = range(300)
    assert rows["arg_0"].tolist() == list(n) and (rows["event"] == "mark").all()
    assert rows["arg_1"].tolist() == [-(i & 7) for i in n]
    assert rows["arg_2"].tolist() == [-1000000000000 * (i & 7) for i in n]
    assert (rows["arg_3"] == 42).all() and rows["arg_4"].tolist() == [3 * i for i in n]
    assert rows["arg_5"].tolist() == list(n)
    if "guarded" in program:
        assert (
            out == "1 0\n"
        )  # the kernel counted the semaphore up for the mark asked for, and for no other


def test_declared_types_name_arguments_and_read_text(program):
    _, sink, _ = run_collector("usdt:app:text(char *name, int number)", [program])
    rows = sink.frame("calls")
    assert rows["arg_name"].tolist() == [f"name-{i}" for i in range(300)]
    assert rows["arg_number"].tolist() == list(range(300))


def test_pattern_counts_every_mark(program):
    _, sink, _ = run_collector("usdt:app:*,count=yes", [program])
    counts = sink.frame("probe_counts").set_index("function")["hits"].to_dict()
    assert counts == {"app:tick": 300, "app:text": 300}


def test_unknown_mark_lists_the_nearest_and_too_many_types_are_refused(program):
    with pytest.raises(UnknownSymbol) as error:
        run_collector("usdt:app:tack", [program])
    assert "app:tick" in error.value.hint
    with pytest.raises(BadSpec, match="declares 3"):
        run_collector("usdt:app:text(char *a, int b, int c)", [program])


def test_semaphore_returns_to_zero_after_detach(tmp_path):
    source = SOURCE.replace(
        "for (int i = 0; i < 300; i++)",
        "char go; fread(&go, 1, 1, stdin); for (int i = 0; i < 3; i++)",
    )
    program = compile_c(tmp_path, "guarded", source, "-O2", "-DGUARDED")
    from memory_sink import MemorySink

    from workbench.collectors.registry import make
    from workbench.collectors.target import attach_target

    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        collector = make("usdt:app:tick")
        collector.attach(attach_target(process.pid), MemorySink())
        collector.detach()
        collector.finish()
        assert process.communicate("x", timeout=20)[0] == "0 0\n"


def test_marks_of_the_python_interpreter():
    python = "/usr/bin/python3"
    names = {mark.name for mark in read_marks(python)} if Path(python).exists() else set()
    if "gc__start" not in names:
        pytest.skip("the distribution's Python has no USDT marks")
    _, sink, _ = run_collector(
        "usdt:python:gc__start(int generation)",
        [python, "-S", "-c", "import gc; gc.disable(); [gc.collect(i) for i in (0,1,2)]"],
    )
    rows = sink.frame("calls")
    # The interpreter collects at its start and end as well.
    assert "012" in "".join(map(str, rows["arg_generation"]))
