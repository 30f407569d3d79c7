"""Real guests: three boots in all, one deterministic, one parallel that panics and is booted again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import workbench as wb
from workbench.errors import BadSpec, RunFailed
from workbench.lab.prepare import status
from workbench.lab.vm import Vm

pytestmark = [pytest.mark.needs("QEMU"), pytest.mark.timeout(1500)]

LONG = 600.0  # seconds; a guest on a busy host may be fifty times slower than on an idle one


def test_status_streams_and_kernel(vm: Vm, prepared: str) -> None:
    result = vm.run("uname -r; echo err >&2; exit 7", limit=LONG)
    assert (result.status, result.text, result.stderr) == (7, f"{prepared}\n", b"err\n")
    assert result.guest["release"] == prepared and result.guest["mode"] == "deterministic"
    assert vm.run(["cat"], stdin=b"in\0put", limit=LONG).stdout == b"in\0put"
    with pytest.raises(RunFailed, match="ended with status 127"):
        vm.run(["/none"], limit=LONG, check=True)


def test_the_kernel_has_sched_ext_and_gives_its_types(vm: Vm, tmp_path: Path) -> None:
    assert vm.run(["cat", "/sys/kernel/sched_ext/state"], limit=LONG).text == "disabled\n"
    assert b"\0sched_ext_ops\0" in vm.machine.kernel.btf()
    (tmp_path / "there").mkdir()
    [there] = vm.copy_out("/sys/kernel/btf/vmlinux", tmp_path / "there")
    assert there.read_bytes() == vm.machine.kernel.btf()


def test_nothing_takes_the_only_cpu_every_ten_seconds(vm: Vm) -> None:
    """khugepaged did, for 40 to 70 ms: tasks of sched_ext come after the kernel's own threads."""
    knob = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs"
    assert int(vm.run(["cat", knob], limit=LONG).text) > 1000 * LONG


def test_files_go_in_and_come_out(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    data = os.urandom(400_000)
    (tmp_path / "in" / "data").write_bytes(data)
    vm.copy_in(tmp_path / "in")
    script = "cat in/data > $OUT/back; mkdir $OUT/sub; echo x > $OUT/sub/x; echo y > $OUT/.hidden"
    result = vm.run(script, output=tmp_path / "out", limit=LONG, check=True)
    assert (tmp_path / "out/back").read_bytes() == data
    assert sorted(one.relative_to(tmp_path / "out").as_posix() for one in result.files) == [
        ".hidden",
        "back",
        "sub/x",
    ]
    assert vm.run("ls -A $OUT", limit=LONG).text == ""
    with pytest.raises(BadSpec, match="to copy into"):
        vm.copy_in(tmp_path / "none")
    with pytest.raises(RunFailed, match="in the guest"):
        vm.copy_out("/none", tmp_path)


def test_the_workbench_itself_works_in_the_guest(vm: Vm) -> None:
    rows = ["native core", "ring buffer", "uprobe", "userspace probe"]
    result = vm.run(["workbench", "doctor", "--json", *rows], limit=LONG, check=True)
    assert {row["name"]: row["ok"] for row in json.loads(result.text)} == dict.fromkeys(
        rows, True
    ), result.text


def test_programs_to_observe_are_there(vm: Vm) -> None:
    there = [name for name, path in status()["programs"].items() if path]
    assert "bash" in there
    script = (
        f"for one in {' '.join(there)}; do path=$(command -v $one) && "
        "/lib64/ld-linux-x86-64.so.2 --list $path >/tmp/list 2>&1 || { echo $one; cat /tmp/list; }; done"
    )
    assert vm.run(script, limit=LONG).text == ""


def test_idle_time_passes_at_once_and_is_counted(vm: Vm) -> None:
    result = vm.run(["sleep", "300"], limit=LONG, check=True)
    assert 300 <= result.seconds < 301


def test_a_command_is_ended_when_its_time_is_over(vm: Vm) -> None:
    result = vm.run("echo begun; while :; do :; done", limit=5)
    assert (result.status, result.timed_out) == (124, True)
    assert vm.run("echo next", limit=LONG).text == "next\n"


def test_a_panic_is_reported_and_the_command_run_again(prepared: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    plan.write_text("panic")

    def go_on(stream: int, data: bytes) -> None:
        plan.write_text("go on")  # what the second boot is brought

    script = (
        'cat /tmp/plan; nproc; [ "$(cat /tmp/plan)" = "go on" ] || { sleep 1; echo c > /proc/sysrq-trigger; }; '
        "echo alive"
    )
    with wb.lab("parallel", cpus=2, accelerator="tcg", boot_limit=LONG) as vm:
        vm.copy_in(plan)
        result = vm.run(script, limit=LONG, show=go_on)
        assert "alive" in result.text and "go on2" in result.text
        assert len(result.panics) == 1 and "sysrq" in result.panics[0]
