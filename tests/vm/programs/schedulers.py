"""Runs in a guest with sched_ext: every promise of `workbench.sched`, one after the other; prints what it saw as JSON.

Waits are for events, with limits; nothing here judges how long something took.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import workbench as wb
from workbench.cli import main
from workbench.errors import WorkbenchError
from workbench.objects.model import builtin
from workbench.sched import Scheduler, read_state
from workbench.sched.borrowed import give_back_left
from workbench.sched.schedcoz import interrupt_mask
from workbench.sched.state import holders, policies

FIFO = "example_fifo"
LIMIT = 60.0
# A thread beside the main one, a real-time thread, and a child: all wait for a line each.
FAMILY = """
import os, sys, threading
def real_time():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))
    ready.set(); stop.wait()
ready, stop = threading.Event(), threading.Event()
threading.Thread(target=real_time).start(); ready.wait()
print("ready", flush=True); sys.stdin.readline()
child = os.fork()
if not child:
    sys.stdin.read(); os._exit(0)
print(child, flush=True); sys.stdin.read(); stop.set(); os.waitpid(child, 0)
"""
COUNTS = "import sys, time\nwhile 1:\n for _ in range(20000): pass\n print(1, flush=True); time.sleep(.01)"
CONTROLS = """
import sys, time
from workbench.objects.model import builtin
from workbench.sched import Scheduler
scheduler = Scheduler(builtin("example_fifo"))
scheduler.take(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(1000)
"""

seen: dict[str, object] = {}


faulthandler.dump_traceback_later(300, exit=True)  # of the guest's time


def until(what: Callable[[], object], why: str) -> None:
    end = time.monotonic() + LIMIT
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(why)
        time.sleep(0.02)


def refused(action: Callable[[], object]) -> str:
    try:
        action()
    except WorkbenchError as error:
        return f"{error.code}: {error}"
    return ""


def cli(*words: str) -> tuple[int, dict[str, object]]:
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink):
        status = main(
            ["sched", *words, "--json"]
            if "--" not in words
            else ["sched", words[0], "--json", *words[1:]]
        )
    return status, json.loads(sink.getvalue() or "{}")


def python(text: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-S", "-c", text, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip()


def in_charge() -> None:
    family = python(FAMILY)
    line(family)
    seen["policies before"] = sorted(policies(family.pid).values())
    with Scheduler(builtin(FIFO), constants={"slice_ns": 4_000_000}) as scheduler:
        seen["name"], seen["state"] = scheduler.state.name, scheduler.state.state
        seen["holders"] = os.getpid() in holders()
        scheduler.take(family.pid)
        seen["policies under it"] = sorted(policies(family.pid).values())
        family.stdin.write("\n")
        family.stdin.flush()
        child = int(line(family))
        seen["policy of a child"] = os.sched_getscheduler(child)
        first = scheduler.counters()
        work = scheduler.start([sys.executable, "-S", "-c", "for _ in range(300000): pass"])
        seen["policy of a command"] = os.sched_getscheduler(work.pid)
        watched = scheduler.watch(LIMIT, 20, until=work)
        seen["command"] = work.wait()
        counters = dict((name, value) for name, value, _ in scheduler.counters())
        seen["grown"] = {
            name: counters[name] - value for name, value, of in first if of == "scheduler"
        }
        seen["watch"] = {
            "columns": list(watched),
            "readings": int(watched.time.nunique()),
            "enqueued": watched[watched.counter == "enqueued"].value.tolist(),
            "dtypes": [str(one) for one in watched.dtypes[["time", "value"]]],
        }
        frame = scheduler.statistics()
        seen["statistics"] = {
            "columns": list(frame),
            "sources": sorted(set(frame.source)),
            "rows": len(frame),
        }
        seen["second"] = refused(lambda: Scheduler(builtin(FIFO)))
        seen["status"] = cli("status")
        seen["in charge"], seen["exit meanwhile"] = scheduler.in_charge, scheduler.exit.kind
    seen["exit"] = [
        scheduler.exit.kind,
        scheduler.exit.reason,
        scheduler.exit.by_request,
        scheduler.in_charge,
    ]
    seen["state after"] = read_state().state
    seen["policies after"] = sorted(policies(family.pid).values())
    seen["policy of a child after"] = os.sched_getscheduler(child)
    family.stdin.close()
    seen["family"] = family.wait(LIMIT)


def killed() -> None:
    target = python(COUNTS)
    line(target)
    controller = python(CONTROLS, str(target.pid))
    line(controller)
    seen["killed: policy"] = os.sched_getscheduler(target.pid)
    seen["killed: state"] = read_state().state
    controller.send_signal(signal.SIGKILL)
    controller.wait(LIMIT)
    until(lambda: not read_state().enabled, "the scheduler of a killed controller stays")
    passed = [line(target) for _ in range(20)]  # returns only if it goes on
    seen["killed: the target goes on"] = passed == ["1"] * 20
    seen["killed: given back"] = give_back_left()
    seen["killed: policy after"] = os.sched_getscheduler(target.pid)
    target.kill()
    target.wait(LIMIT)


def starved() -> None:
    with Scheduler(wb.open("/tmp/stalls.bpf.o")) as scheduler:
        victim = scheduler.start(
            [sys.executable, "-S", "-c", "import time; time.sleep(.05); print(sum(range(1000)))"],
            stdout=subprocess.PIPE,
        )
        until(lambda: scheduler.exit.kind, "the watchdog does not bark")
        seen["starved: exit"] = [scheduler.exit.kind, scheduler.exit.reason, scheduler.exit.message]
        seen["starved: output"] = victim.communicate(timeout=LIMIT)[0].decode().strip()
        until(lambda: not read_state().enabled, "the scheduler stays")
        seen["starved: in charge"] = scheduler.in_charge
    seen["starved: kept"] = scheduler.exit.kind
    seen["starved: state"] = read_state().state


def cgroup() -> None:
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.procs").exists():
        subprocess.run(["mount", "-t", "cgroup2", "none", root], check=True)
    inner = root / "outer" / "inner"
    inner.mkdir(parents=True)
    target = python("import sys; print(1, flush=True); sys.stdin.read()")
    line(target)
    (inner / "cgroup.procs").write_text(str(target.pid))
    with Scheduler(builtin(FIFO)) as scheduler:
        seen["cgroup: taken"] = scheduler.take_cgroup(root / "outer") == [target.pid]
        seen["cgroup: policy"] = os.sched_getscheduler(target.pid)
        seen["cgroup: again"] = scheduler.take_cgroup(root / "outer")
        seen["cgroup: root"] = refused(lambda: scheduler.take_cgroup(root))
        seen["cgroup: gone"] = refused(lambda: scheduler.take_cgroup(root / "none"))
    seen["cgroup: policy after"] = os.sched_getscheduler(target.pid)
    target.communicate()
    inner.rmdir()
    (root / "outer").rmdir()


def command_line() -> None:
    words = [sys.executable, "-S", "-c", "import os; raise SystemExit(os.sched_getscheduler(0))"]
    seen["run"] = cli("run", FIFO, "--constant", "slice_ns=5_000_000", "--", *words)
    seen["run: unknown constant"] = refused(
        lambda: Scheduler(builtin(FIFO), constants={"slize": 1})
    )
    seen["run: no scheduler"] = refused(lambda: Scheduler(builtin("cpu")))
    seen["stats without one"] = main(["sched", "stats", "--json"])


def schedcoz() -> None:
    constants = {"interrupt_mask": interrupt_mask(), "cpu_count": os.cpu_count() or 1}
    with Scheduler(builtin("schedcoz"), constants=constants) as scheduler:
        seen["schedcoz"] = [scheduler.state.name, scheduler.in_charge]
        scheduler.start([sys.executable, "-S", "-c", "for _ in range(1000): pass"]).wait(LIMIT)
    seen["schedcoz: exit"] = [scheduler.exit.kind, read_state().state]


def compared() -> None:
    variants = [wb.sched.Variant("own"), wb.sched.Variant("fifo", FIFO, {"slice_ns": 4_000_000})]
    recording = wb.sched.compare("/tmp/compared", variants, computing=1, rounds=200_000, lab=False)
    tasks, counters = recording.frame("scheduler_tasks"), recording.frame("scheduler_counters")
    seen["compared"] = [
        tasks.scheduler.tolist(),
        sorted(set(tasks.exit)),
        sorted(set(counters.scheduler)),
    ]
    seen["compared: started"] = int(counters[counters.counter == "started"].value.max())


for part in (in_charge, killed, starved, cgroup, command_line, schedcoz, compared):
    begun = time.monotonic()
    try:
        part()
    except Exception as error:
        seen[f"{part.__name__} failed"] = f"{type(error).__name__}: {error}"
    print(f"{part.__name__}: {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
print("SEEN " + json.dumps(seen))
