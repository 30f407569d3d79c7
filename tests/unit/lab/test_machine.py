"""Options that make no sense are refused before anything boots; what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import BadSpec, MissingCapability
from workbench.lab import apt
from workbench.lab.cache import Cache
from workbench.lab.kernel import Kernel, decompress, release_of, uncompressed, unsigned
from workbench.lab.machine import Machine, qemu
from workbench.lab.prepare import parts, ready, status


def kernel(tmp_path: Path, config: str = "") -> Kernel:
    (tmp_path / "config").write_text(config)
    return Kernel("6.99-test", tmp_path / "vmlinux", None, None, tmp_path / "config", "here")


@pytest.mark.parametrize(
    "options", [{"mode": "quick"}, {"cpus": 2}, {"memory": 10}, {"mode": "parallel", "cpus": 0}]
)
def test_machines_that_make_no_sense(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(BadSpec):
        Machine(kernel(tmp_path), tmp_path, tmp_path, tmp_path, **options)  # type: ignore[arg-type]


def test_paths_with_commas_are_one_word_for_qemu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.lab.machine.qemu", lambda: "qemu")
    image = tmp_path / "a,b"
    image.write_bytes(b"")
    machine = Machine(kernel(tmp_path, "CONFIG_VIRTIO_BLK=y\n"), image, image, image)
    words = machine.command(Path("/x,y"), 7)
    assert f"file,id=console,path={'/x,,y'}" in words
    assert any(word.endswith(f"file={str(image).replace(',', ',,')}") for word in words)
    assert machine.disks == "virtio"
    assert Machine(kernel(tmp_path), image, image, image).disks == "nvme"


def test_without_qemu_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingCapability, match="qemu-system-x86_64") as caught:
        qemu()
    assert "apt-get install qemu-system-x86" in caught.value.hint


def test_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(MissingCapability, match="riscv64"):
        qemu()


def test_without_apt_a_kernel_of_ones_own_is_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingCapability) as caught:
        apt.Apt.of_system(tmp_path)
    assert "--kernel PATH" in caught.value.hint


@pytest.mark.needs("QEMU")
def test_an_empty_cache_says_what_to_do_and_stays_empty(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "lab")
    for ask in (lambda: parts(cache, None, (), print), lambda: ready(cache)):
        with pytest.raises(MissingCapability) as caught:
            ask()
        assert "workbench lab prepare" in caught.value.hint
    found = status(cache)
    assert found["problem"] and "workbench lab prepare" in found["hint"] and found["kernels"] == []
    assert not (tmp_path / "lab").exists()
    with pytest.raises(BadSpec):
        parts(cache, "../x", (), print)


def test_what_is_no_kernel_is_refused() -> None:
    for data in (b"", b"text", bytes(2000), b"\0" * 0x202 + b"HdrS" + bytes(3000)):
        assert release_of(data) == ""
        with pytest.raises(BadSpec):
            uncompressed(data)
    for magic in (b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08", b"\xfd7zXZ\x00"):
        with pytest.raises(BadSpec, match="damaged"):
            decompress(magic + b"nonsense" * 10)


def test_signatures_are_cut_off() -> None:
    end = b"~Module signature appended~\n"
    signature = bytes(264) + bytes(8) + (264).to_bytes(4, "big") + end
    assert unsigned(b"module" + signature) == b"module"
    assert unsigned(b"module") == b"module"
    assert unsigned(b"\xff" * 12 + end) == b"\xff" * 12 + end  # a length beyond its beginning


def test_facts_and_locks(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "lab")
    assert cache.facts("x.json") == {}
    cache.note("x.json", {"a": 1})
    assert cache.facts("x.json") == {"a": 1}
    (tmp_path / "lab/x.json").write_text("{damaged")
    assert cache.facts("x.json") == {}
    with cache.locked("one"), cache.locked("two"):
        pass
    dead = cache.folder("work") / "staging-999999999-abc"
    dead.mkdir()
    mine = cache.workspace("staging")
    assert mine.exists() and not dead.exists()
    for at in range(4):
        (cache.folder("images") / f"root-{at}.ext4").write_bytes(bytes(5000))
    cache.keep_newest("images", "root-*.ext4", 2)
    assert len(list((tmp_path / "lab/images").iterdir())) == 2
    assert cache.remove() > 0 and not (tmp_path / "lab").exists()
