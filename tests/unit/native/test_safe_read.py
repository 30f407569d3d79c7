"""Fault-safe reads in a plain C process: on this processor, with a sanitizer, and on aarch64 (emulated)."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from workbench.native.build import FLAGS, HERE, compiler

DRIVER = Path(__file__).parents[2] / "support/safe_read_driver.c"
SOURCES = [str(HERE / f"runtime/{name}.c") for name in ("process", "safe_read")]


def _build(c: str, output: Path, *options: str) -> Path:
    warnings = [flag for flag in FLAGS if flag.startswith("-W")]
    command = [
        c,
        "-std=c11",
        "-O2",
        *warnings,
        *options,
        f"-I{HERE}",
        *SOURCES,
        str(DRIVER),
    ]
    subprocess.run([*command, "-o", str(output)], check=True)
    return output


@pytest.mark.needs("C compiler")
@pytest.mark.parametrize("options", [(), ("-fsanitize=undefined", "-fno-sanitize-recover=all")])
def test_here(tmp_path: Path, options: tuple[str, ...]) -> None:
    program = _build(compiler(), tmp_path / "driver", *options)
    done = subprocess.run([program], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"check at line {done.returncode - 1} failed: {done.stderr}"


@pytest.mark.needs("aarch64 programs", "C compiler")
def test_on_aarch64(tmp_path: Path) -> None:
    program = _build("aarch64-linux-gnu-gcc", tmp_path / "driver", "-static")
    emulator = [] if platform.machine() == "aarch64" else ["qemu-aarch64"]
    done = subprocess.run([*emulator, program], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"check at line {done.returncode - 1} failed: {done.stderr}"
