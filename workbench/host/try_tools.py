"""Trials of programs and libraries: each does its smallest real job once."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from workbench.host.trial import Absent, grant, trial

__all__ = ()


def _scratch(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="workbench-doctor-")))


def _finish(stack: ExitStack, child: subprocess.Popen[bytes]) -> None:
    def end() -> None:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()

    stack.callback(end)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]


_BPF_SOURCE = 'int one(void *context) { return 1; }\nchar licence[] __attribute__((section("license"))) = "GPL";\n'


@trial("clang", "Debian: apt-get install clang-19; the built objects in the package need no clang")
def _clang(stack: ExitStack) -> str:
    from workbench.objects.compile import clang

    target = _scratch(stack) / "one.o"
    run = subprocess.run(
        [clang(), "-target", "bpf", "-O2", "-g", "-x", "c", "-c", "-", "-o", str(target)],
        input=_BPF_SOURCE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if run.returncode:
        raise Absent(f"{clang()} cannot compile BPF: {_last(run.stderr)}")
    machine = int.from_bytes(target.read_bytes()[18:20], "little")
    if machine != 247:  # EM_BPF
        raise Absent(f"{clang()} made an object for ELF machine {machine}")
    return f"{clang()} compiled a BPF object"


@trial("C compiler", "Debian: apt-get install gcc libc6-dev, or set CC")
def _c_compiler(stack: ExitStack) -> str:
    from workbench.native.build import compiler

    folder = _scratch(stack)
    (folder / "one.c").write_text("#include <stdint.h>\nuint32_t one(void) { return 4242; }\n")
    command = [compiler(), "-shared", "-fPIC", "-o", "one.so", "one.c"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode:
        raise Absent(f"{compiler()} fails: {_last(run.stderr)}")
    if ctypes.CDLL(str(folder / "one.so")).one() != 4242:
        raise Absent(f"{compiler()} made a library that does not run")
    return f"{compiler()} compiled a library and it ran"


@trial(
    "aarch64 programs",
    "only tests need it; Debian: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
)
def _aarch64(stack: ExitStack) -> str:
    cross, emulator = map(shutil.which, ("aarch64-linux-gnu-gcc", "qemu-aarch64"))
    native = platform.machine() == "aarch64"
    if not cross or not (native or emulator):
        raise Absent(f"no program {'qemu-aarch64' if cross else 'aarch64-linux-gnu-gcc'} on PATH")
    program = _scratch(stack) / "one"
    build = subprocess.run(
        [cross, "-static", "-x", "c", "-o", str(program), "-"],
        input="int main(void) { return 42; }", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if build.returncode:
        raise Absent(f"{cross} fails: {_last(build.stderr)}")
    command = [str(program)] if native or not emulator else [emulator, str(program)]
    if subprocess.run(command, check=False).returncode != 42:
        raise Absent(f"a program made by {cross} did not run")
    return f"{cross} made a program and {'it' if native else emulator} ran {'' if native else 'it'}".strip()


@trial("native core", "build it: python -m workbench.native.build")
def _native_core(stack: ExitStack) -> str:
    from workbench.native.library import CORE, load

    load()
    symbols = len(set(re.findall(rb"\0(wb_\w+)", CORE.read_bytes())))
    return f"{CORE.name} loaded, {symbols} functions"


@trial("libbpf", "Debian: apt-get install libbpf1")
def _libbpf(stack: ExitStack) -> str:
    from workbench.kernel.libbpf import library

    lib = library()
    cpus = lib.libbpf_num_possible_cpus()
    if cpus < 1:
        raise Absent(f"libbpf_num_possible_cpus gave {cpus}")
    return f"libbpf {lib.libbpf_version_string().decode().lstrip('v')} loaded and called ({cpus} possible CPUs)"


@trial(
    "bcc",
    "optional; Debian: apt-get install python3-bpfcc linux-headers-cloud-$(dpkg --print-architecture)",
    grant("bpf", "perfmon", "sys_resource"),
    limit=60.0,
)
def _bcc(stack: ExitStack) -> str:
    from workbench.kernel.bcc import bcc_program

    text = "BPF_ARRAY(hits, u64, 1);\nRAW_TRACEPOINT_PROBE(sys_enter) { hits.increment(0); return 0; }\n"
    with bcc_program(text) as program:
        os.getppid()
        hits = int(program.array("hits")[0])
        where = program.headers
    if not hits:
        raise Absent("the program was compiled and attached but counted no system call")
    return f"a one-liner was compiled against headers of Linux {where.release} and counted system calls"


@trial("llvm-symbolizer", "Debian: apt-get install llvm-19; without it stacks have no lines or inlined calls")
def _symbolizer(stack: ExitStack) -> str:
    from workbench.frames.symbols.lines import find_tool

    program = find_tool()
    if not program:
        raise Absent("no program llvm-symbolizer on PATH")
    libc = ctypes.CDLL(None)
    address = ctypes.cast(libc.getppid, ctypes.c_void_p).value or 0
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        low, high = (int(one, 16) for one in fields[0].split("-"))
        if low <= address < high:
            offset, path = address - low + int(fields[2], 16), fields[5]
            break
    else:
        raise Absent("getppid is in no mapping")
    run = subprocess.run(
        [program, f"--obj={path}", hex(offset)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if "getppid" not in run.stdout:
        raise Absent(f"{program} named getppid of {path} {_last(run.stdout + run.stderr)!r}")
    return f"{program} found getppid in {Path(path).name}"


@trial("OpenCL", "Debian: apt-get install pocl-opencl-icd ocl-icd-libopencl1 (runs kernels on the CPU)", limit=30.0)
def _opencl(stack: ExitStack) -> str:
    os.environ["POCL_CACHE_DIR"] = str(_scratch(stack))
    try:
        lib = ctypes.CDLL("libOpenCL.so.1")
    except OSError as error:
        raise Absent(str(error)) from None
    platforms = (ctypes.c_void_p * 16)()
    count = ctypes.c_uint(0)
    status = lib.clGetPlatformIDs(16, platforms, ctypes.byref(count))
    if status or not count.value:
        raise Absent(f"the loader found no platform (status {status})")
    name = ctypes.create_string_buffer(256)
    lib.clGetPlatformInfo(ctypes.c_void_p(platforms[0]), 0x0902, 256, name, None)
    devices = ctypes.c_uint(0)
    every = ctypes.c_ulong(0xFFFFFFFF)
    status = lib.clGetDeviceIDs(ctypes.c_void_p(platforms[0]), every, 0, None, ctypes.byref(devices))
    if status or not devices.value:
        raise Absent(f"{name.value.decode()} has no device (status {status})")
    return f"{name.value.decode()} with {devices.value} device{'s' * (devices.value != 1)}"


@trial("QEMU", "Debian: apt-get install qemu-system-x86 (or qemu-system-arm)")
def _qemu(stack: ExitStack) -> str:
    name = f"qemu-system-{platform.machine()}"
    program = shutil.which(name)
    if not program:
        raise Absent(f"no program {name} on PATH")
    run = subprocess.run(
        [program, "-machine", "none", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio"],
        input='{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n',
        capture_output=True, text=True, timeout=8, check=False,
    )  # fmt: skip
    match = re.search(r'"major": (\d+)', run.stdout)
    if run.returncode or not match:
        raise Absent(f"{program} did not answer: {_last(run.stderr)}")
    return f"{program} started without a guest and answered (version {match[1]})"


@trial("Chromium", "Debian: apt-get install chromium chromium-driver", limit=40.0)
def _chromium(stack: ExitStack) -> str:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        raise Absent("no program chromium on PATH")
    folder = _scratch(stack)
    page = "data:text/html,<script>document.title=6*7;document.write('sum'+(40+2))</script>"
    command = [
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-extensions", "--disable-background-networking", f"--user-data-dir={folder}", "--dump-dom", page,
    ]  # fmt: skip
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)},
    )  # fmt: skip
    _finish(stack, child)
    out, err = child.communicate(timeout=35)
    if b"sum42" not in out:
        raise Absent(f"{program} did not run a page: {_last(err.decode(errors='replace'))}")
    return f"{program} ran a page headless"


@trial("redis-server", "Debian: apt-get install redis-server; other workloads can be observed without it")
def _redis(stack: ExitStack) -> str:
    program = shutil.which("redis-server")
    if not program:
        raise Absent("no program redis-server on PATH")
    folder = _scratch(stack)
    path = folder / "socket"
    command = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    _finish(stack, child)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(str(path))
                client.sendall(b"PING\r\n")
                if client.recv(16).startswith(b"+PONG"):
                    return f"{program} started and answered"
        except OSError:
            time.sleep(0.01)
    raise Absent(f"{program} did not answer on a socket of its own")
