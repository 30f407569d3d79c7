"""The native core under AddressSanitizer and UndefinedBehaviorSanitizer, for tests that feed it damaged input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.native.build import build, compiler

SANITIZE = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
    "-O1",
)
# PYTHONMALLOC=malloc and exact-size ctypes buffers let the sanitizer see the end of what a test passes in.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=2048",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "PYTHONMALLOC": "malloc",
}
PROLOGUE = """
import os
from pathlib import Path
import workbench.native.library
workbench.native.library.CORE = Path(os.environ["SANITIZED_CORE"])
"""

RunSanitized = Callable[..., str]


def _runtime() -> str:
    """The sanitizer's shared library, which has to be loaded before everything else."""
    for name in ("libasan.so", f"libclang_rt.asan-{os.uname().machine}.so"):
        found = subprocess.run(
            [compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        if Path(found).is_absolute() and Path(found).exists():
            return str(Path(found).resolve())
    raise AssertionError(f"{compiler()} has no AddressSanitizer library")


@pytest.fixture(scope="session")
def sanitized_core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All C files of the native core, compiled with the sanitizers."""
    output = tmp_path_factory.mktemp("sanitized") / "_core.so"
    clang = "clang" in subprocess.run(
        [compiler(), "--version"], capture_output=True, text=True, check=True
    ).stdout.lower()
    build(output, (*SANITIZE, *(("-shared-libasan",) if clang else ())), force=True)
    return output


@pytest.fixture(scope="session")
def run_sanitized(sanitized_core: Path) -> RunSanitized:
    """Run a Python script in a process of its own whose native core is the sanitized one.

    ``run_sanitized(script, *arguments, fails=False)`` returns what the script printed. The test fails, showing the
    sanitizer's report, when the script fails; with ``fails=True`` when it does not (the report is returned then).
    """

    def run(script: str, *arguments: str, fails: bool = False, timeout: float = 100) -> str:
        done = subprocess.run(
            [sys.executable, "-c", PROLOGUE + script, *arguments],
            env={
                **os.environ,
                **OPTIONS,
                "PYTHONPATH": str(Path(__file__).parents[2] / "support"),
                "LD_PRELOAD": _runtime(),
                "SANITIZED_CORE": str(sanitized_core),
            },
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        report = f"{done.stdout[-2000:]}\n{done.stderr[-8000:]}"
        assert (done.returncode != 0) == fails, f"exit status {done.returncode}\n{report}"
        return report if fails else done.stdout

    return run
