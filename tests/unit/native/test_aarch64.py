"""The native core on the other processor: compiled for it, run on it (emulated), and with its ordered loads."""

from __future__ import annotations

import errno
import platform
import random
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from call_frames import real_sections
from ring_model import DTYPE, FakeRing, fill

from workbench.native.build import FLAGS, HERE, LIBRARY, compiler, sources

pytestmark = pytest.mark.needs("aarch64 programs", "C compiler")

CROSS = "aarch64-linux-gnu-gcc"
EMULATOR = [] if platform.machine() == "aarch64" else ["qemu-aarch64"]
DRIVER = Path(__file__).parents[2] / "support/core_driver.c"
WARNINGS = [flag for flag in FLAGS if flag.startswith("-W")]


def _driver(c: str, output: Path, *options: str) -> Path:
    command = [
        c,
        "-std=c11",
        "-O2",
        *WARNINGS,
        *options,
        f"-I{HERE}",
        *map(str, sources()),
        str(DRIVER),
    ]
    subprocess.run([*command, "-o", str(output), "-lpthread"], check=True)
    return output


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver for aarch64."""
    return _driver(CROSS, tmp_path_factory.mktemp("aarch64") / "driver", "-static")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for this machine."""
    return _driver(compiler(), tmp_path_factory.mktemp("native") / "driver")


def on_aarch64(program: Path, *words: object) -> bytes:
    command = [*EMULATOR, str(program), *map(str, words)]
    return subprocess.run(command, capture_output=True, check=True, timeout=100).stdout


def on_this(program: Path, *words: object) -> bytes:
    return subprocess.run([program, *map(str, words)], capture_output=True, check=True).stdout


def _write(ring: FakeRing, path: Path) -> Path:
    head = struct.pack("<QQQ", ring.size, ring.consumer.value, ring.producer.value)
    path.write_bytes(head + bytes(ring.memory))
    return path


@pytest.mark.parametrize("mixed", [False, True])
def test_rings_read_as_their_model_says(mixed: bool, there: Path, tmp_path: Path) -> None:
    for seed in range(4):
        ring = fill(seed, 8192, mixed)
        path = _write(ring, tmp_path / "ring")
        expected = ring.visible()
        assert expected
        assert on_aarch64(there, "records", 0, path) == b"".join(expected)
        assert on_aarch64(there, "spans", 0, path) == b"".join(expected)
        fixed = [one for one in expected if len(one) == DTYPE.itemsize]
        assert on_aarch64(there, "columns", DTYPE.itemsize, path) == b"".join(fixed)


def test_a_producer_on_another_thread_is_read_in_order(there: Path) -> None:
    assert on_aarch64(there, "threads", 20_000) == b"20000\n"


def test_unwind_rows_of_its_own_code_are_the_same(there: Path, here: Path, tmp_path: Path) -> None:
    ((_, data, address, machine),) = real_sections([str(there)])
    assert machine == 183
    (tmp_path / "frames").write_bytes(struct.pack("<Q", address) + data)
    rows = on_aarch64(there, "rows", machine, tmp_path / "frames")
    assert len(rows) > 100 * 24
    assert rows == on_this(here, "rows", machine, tmp_path / "frames")


def test_stacks_get_the_same_ids(there: Path, here: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    known = [[rng.getrandbits(48) for _ in range(rng.randrange(40))] for _ in range(300)]
    chosen = [rng.choice(known) for _ in range(5000)]
    flat = np.array([address for one in chosen for address in one], np.uint64)
    parts = (
        np.array([len(chosen), len(flat)], np.uint64),
        np.array([rng.randrange(3) for _ in chosen], np.int32),
        np.array([len(one) for one in chosen], np.int32),
        flat,
    )
    (tmp_path / "stacks").write_bytes(b"".join(part.tobytes() for part in parts))
    ids = on_aarch64(there, "stacks", tmp_path / "stacks")
    assert len(ids) == 4 * len(chosen) and len(set(struct.unpack(f"<{len(chosen)}i", ids))) > 300
    assert ids == on_this(here, "stacks", tmp_path / "stacks")


def _expected(operations: int) -> bytes:
    """What a dict says to the driver's operations on a hash map of 24 entries."""
    state, content, said = 88172645463325252, {}, []  # type: ignore[var-annotated]
    for _ in range(operations):
        state ^= state << 13 & (1 << 64) - 1
        state ^= state >> 7
        state ^= state << 17 & (1 << 64) - 1
        key, what = state >> 20 & 31, state >> 8 & 7
        result, found = 0, b""
        if what < 5:
            flags = 0 if what < 3 else what - 2
            if key in content and flags == 1:
                result = -errno.EEXIST
            elif key not in content and flags == 2:
                result = -errno.ENOENT
            elif key not in content and len(content) == 24:
                result = -errno.E2BIG
            else:
                content[key] = struct.pack("<QQQ", state, state ^ (1 << 64) - 1, key)
        elif key not in content:
            result = -errno.ENOENT
        elif what == 5:
            del content[key]
        else:
            found = content[key]
        said.append(struct.pack("<q", result) + found)
    return b"".join(said)


@pytest.mark.parametrize("kind", [1, 5, 9, 10])
def test_hash_maps_do_what_they_do_here(kind: int, there: Path, here: Path) -> None:
    """With locks at first, then by the bias of the only thread."""
    made = on_aarch64(there, "hash", kind, 20_000)
    assert made == on_this(here, "hash", kind, 20_000)
    if kind in (1, 5):
        assert made == _expected(20_000)


def test_headers_and_positions_are_read_and_written_in_order(tmp_path: Path) -> None:
    """An emulator on a strongly ordered processor cannot show a missing barrier; the instructions do."""
    core = tmp_path / "core.so"
    subprocess.run([CROSS, *FLAGS, *LIBRARY, *map(str, sources()), "-o", str(core), "-lpthread"], check=True)
    command = ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", str(core)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions = dict(re.findall(r"^[0-9a-f]+ <(wb_\w+)>:\n(.*?)(?:^$|\Z)", text, re.M | re.S))

    def count(name: str, instruction: str) -> int:
        return len(re.findall(rf"\t{instruction}", functions[name]))

    for name in ("wb_ring_columns", "wb_ring_records"):  # the producer position and every header
        assert count(name, r"lda(p)?r\b") >= 2 and count(name, r"stlr\b") >= 1
    assert count("wb_ring_spans", r"lda(p)?r\b") >= 1
    assert count("wb_ring_release", r"stlr\b") == 1
    assert count("wb_watch_take", r"lda(p)?r\b") >= 1


@pytest.mark.parametrize("source", sorted(HERE.glob("agents/*.c")), ids=lambda path: path.stem)
def test_agents_compile(source: Path, tmp_path: Path) -> None:
    subprocess.run([CROSS, *FLAGS, *LIBRARY, str(source), "-o", str(tmp_path / "agent.so")], check=True)
