"""Small real ELF files and an empty cache for the tests of the symbolizer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from workbench.frames.symbols.store import SymbolStore

SOURCE = """
__attribute__((noinline)) static int hidden(int x) { return x * 3; }
__attribute__((noinline)) int shown(int x) { return hidden(x) + 1; }
__attribute__((weak, noinline)) int weakling(int x) { return x + 2; }
int initialised[4] = {1, 2, 3, 4};
int zeroed[16];
static int resolver_target(int x) { return x; }
static void *resolve(void) { return (void *)resolver_target; }
int chosen(int) __attribute__((ifunc("resolve")));
__thread int per_thread;
__asm__(".text\\n.globl by_hand\\nby_hand: nop\\nnop\\nnop\\nret\\n.globl after_hand\\nafter_hand: ret\\n");
int main(int argc, char **argv) { return shown(argc) + weakling(argc) + chosen(zeroed[0]) + per_thread; }
"""


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C program with every kind of symbol, not stripped."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.c").write_text(SOURCE)
    out = folder / "program"
    subprocess.run(
        ["cc", "-O1", "-Wl,--build-id", "-o", str(out), str(folder / "program.c")],
        check=True,
        timeout=60,
    )
    return out


@pytest.fixture
def store(tmp_path: Path) -> SymbolStore:
    """A store with a cache of its own."""
    return SymbolStore(tmp_path / "cache")
