"""Trials of the userspace runtime: compiling, shared maps, entering a process. None needs a privilege."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from workbench.host.trial import Absent, trial

__all__ = ()

_EXTRA = "pip install 'bpf-workbench[runtime]'"
_CALLS = 100
_KEY, _VALUE = b"four", b"an entry"
_CHILD = """
import ctypes, sys
absolute = ctypes.CDLL(None).abs
print("ready", flush=True)
for line in sys.stdin:
    print(sum(absolute(-1) for _ in range(int(line))), flush=True)
"""


def _program(text: str) -> bytes:
    from workbench.runtime.isa import assemble

    return assemble(text)


@trial(
    "executable memory",
    "let this process map memory files executable: sysctl vm.memfd_noexec=0, no MemoryDenyWriteExecute in its unit",
    limit=60.0,
)
def _executable_memory(stack: ExitStack) -> str:
    from workbench.runtime.jit.code import map_code

    machine = os.uname().machine
    code = {
        "x86_64": bytes.fromhex("b892100000c3"),  # mov eax, 4242; ret
        "aarch64": bytes.fromhex("40128252c0035fd6"),  # mov w0, 4242; ret
    }.get(machine)
    if code is None:
        raise Absent(f"not tried: no code is written for {machine}")
    base, length, how = map_code(code)
    stack.callback(_unmap, base, length)
    answer = ctypes.CFUNCTYPE(ctypes.c_int)(base)()
    if answer != 4242:
        raise Absent(f"code that was mapped gave {answer} for 4242")
    return f"code ran from {how}, which was never writable and executable at once"


def _unmap(base: int, length: int) -> None:
    libc = ctypes.CDLL(None)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.munmap(base, length)


@trial("userspace JIT", _EXTRA, limit=60.0)
def _jit(stack: ExitStack) -> str:
    from workbench.runtime.jit import run_raw
    from workbench.runtime.jit.llvm import binding

    code = _program("ldxw %r0, [%r1]\nmul %r0, 3\nexit")
    for tier in ("quick", "optimised"):
        value = run_raw(code, bytearray((1414).to_bytes(8, "little")), tier)
        if value != 4242:
            raise Absent(f"a program compiled by the {tier} tier gave {value} for 4242")
    version = ".".join(map(str, binding().llvm_version_info))
    return f"LLVM {version} compiled a program in both tiers and it ran"


def _namespaces(stack: ExitStack) -> Path:
    """Where namespaces would be, but in a folder of the trial's own."""
    from workbench.runtime.maps.space import root

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(".doctor", dir=root())))
    before = os.environ.get("WORKBENCH_NAMESPACES")
    os.environ["WORKBENCH_NAMESPACES"] = str(folder)

    def back() -> None:
        if before is None:
            del os.environ["WORKBENCH_NAMESPACES"]
        else:
            os.environ["WORKBENCH_NAMESPACES"] = before

    stack.callback(back)
    return folder


@trial(
    "userspace maps",
    "set WORKBENCH_NAMESPACES to a folder of your own on a tmpfs",
    "set WORKBENCH_NAMESPACES to a folder of your own on a tmpfs",
    limit=60.0,
)
def _maps(stack: ExitStack) -> str:
    from workbench.objects.linked import LinkedMap
    from workbench.runtime.maps import Space

    folder = _namespaces(stack)
    name = "doctor"
    space = stack.enter_context(Space(name))
    stack.callback(space.remove)
    written = space.create(LinkedMap("numbers", 1, 4, 8, 16))
    child = os.fork()
    if not child:
        try:
            with Space(name) as other:
                other.open("numbers").update(_KEY, _VALUE)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    keys, values = written.table()
    found = keys.tobytes(), values.tobytes()
    if found != (_KEY, _VALUE):
        raise Absent(f"of an entry that another process wrote, {found[0]!r}: {found[1]!r} was read")
    return f"two processes shared a hash map in {folder.parent}"


@trial(
    "userspace probe",
    "let this user trace its own processes: sysctl kernel.yama.ptrace_scope=1 or 0",
    "let this user trace its own processes: sysctl kernel.yama.ptrace_scope=1 or 0",
    limit=60.0,
)
def _probe(stack: ExitStack) -> str:
    from workbench.objects.linked import Function, LinkedProgram
    from workbench.runtime.attach import Process
    from workbench.runtime.jit import compile_program
    from workbench.runtime.maps import Space

    _namespaces(stack)
    program = LinkedProgram("doctor", "uprobe", "kprobe", _program("mov %r0, 0\nexit"), (Function("doctor", 0, 2),))
    blob = compile_program(program, (), tier="quick", vectors=False)
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CHILD],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    stack.callback(child.communicate)
    stack.callback(child.kill)
    assert child.stdin and child.stdout

    def answer() -> str:
        assert child.stdout
        return child.stdout.readline().strip()

    answer()
    with Space() as space, Process(child.pid, space) as process:
        link = process.attach(blob, "libc:abs")
        child.stdin.write(f"{_CALLS}\n")
        child.stdin.flush()
        total, hits, method = answer(), link.hits, link.method
    child.stdin.write("1\n")
    child.stdin.flush()
    if total != str(_CALLS) or answer() != "1":
        raise Absent("the probed process did not go on as before")
    if hits != _CALLS:
        raise Absent(f"{hits} of {_CALLS} calls in a child process were seen")
    return f"{_CALLS} calls in a child process were counted by a program ({method}), and the child was restored"
