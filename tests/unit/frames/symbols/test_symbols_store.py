"""The cache of symbol tables: warm, damaged, full, unwritable, and true when a file changes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from workbench.frames.symbols.arrayfile import BadArrayFile, read_arrays, write_arrays
from workbench.frames.symbols.elf import ElfSymbols
from workbench.frames.symbols.store import SymbolStore, cache_folder

pytestmark = pytest.mark.needs("C compiler")


def _files(store: SymbolStore) -> list[Path]:
    return sorted(path for path in store.folder.rglob("*") if path.is_file())


def test_table_from_the_cache_equals_the_file(program: Path, store: SymbolStore) -> None:
    built = store.get(str(program))
    again = SymbolStore(store.folder.parent).get(str(program))
    assert built is not None and again is not None and again is not built
    for key, column in built.columns.items():
        assert np.array_equal(column, again.columns[key]), key
    assert again.find_name("shown") == built.find_name("shown")
    assert again.meta == built.meta


def test_symbols_outlive_the_file(program: Path, store: SymbolStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy(program, copy)
    build_id = ElfSymbols.open(copy).build_id
    store.get(str(copy), build_id)
    copy.unlink()
    later = SymbolStore(store.folder.parent).get(str(copy), build_id)
    assert later is not None and later.find_name("hidden")


def test_readable_names_are_kept_between_sessions(program: Path, store: SymbolStore) -> None:
    symbols = store.get(str(program))
    assert symbols is not None
    rows = np.arange(len(symbols))
    first = symbols.display(rows).to_pylist()
    store.save()
    again = SymbolStore(store.folder.parent).get(str(program))
    assert again is not None
    assert again.display(rows).to_pylist() == first
    assert again.new_names == 0


@pytest.mark.parametrize("suffix", [".table", ".names"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "grow"])
def test_a_damaged_cache_is_rebuilt(
    program: Path, store: SymbolStore, suffix: str, damage: str
) -> None:
    symbols = store.get(str(program))
    assert symbols is not None
    rows = np.arange(len(symbols))
    names = symbols.display(rows).to_pylist()
    store.save()
    (file,) = [path for path in _files(store) if path.suffix == suffix]
    content = bytearray(file.read_bytes())
    if damage == "flip":
        for at in range(0, len(content), 97):
            content[at] ^= 0x55
    file.write_bytes(
        {"cut": content[: len(content) // 2], "empty": b"", "grow": content[100:]}.get(
            damage, content
        )
    )
    again = SymbolStore(store.folder.parent).get(str(program))
    assert again is not None
    assert again.display(rows).to_pylist() == names
    assert again.find_name("hidden")[0] == symbols.find_name("hidden")[0]


def test_every_single_changed_byte_of_a_table_is_survived(
    program: Path, store: SymbolStore
) -> None:
    symbols = store.get(str(program))
    assert symbols is not None
    (file,) = _files(store)
    content = file.read_bytes()
    for at in range(0, len(content), 61):
        file.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        again = SymbolStore(store.folder.parent).known(symbols.build_id)
        if again is not None:  # only the text of names and the padding carry no checksum
            assert len(again.find_address(np.array([0, 2**64 - 1], np.uint64))) == 2
            again.match("*")


def test_file_replaced_since_it_was_recorded_is_not_used(
    program: Path, store: SymbolStore, tmp_path: Path
) -> None:
    path = tmp_path / "binary"
    shutil.copy("/bin/true", path)
    assert store.get(str(path), "ab" * 20) is None
    assert "build id" in store.problem(str(path), "ab" * 20)


def test_file_without_build_id_is_read_again_when_it_changes(
    program: Path, store: SymbolStore, tmp_path: Path
) -> None:
    path = tmp_path / "plain"
    for name in ("first", "second"):
        source = tmp_path / f"{name}.c"
        source.write_text(f"int {name}(void) {{ return 0; }} int main(void) {{ return {name}(); }}")
        subprocess.run(["cc", "-Wl,--build-id=none", "-o", str(path), str(source)], check=True)
        symbols = store.get(str(path))
        assert symbols is not None and symbols.build_id == "" and symbols.find_name(name)


def test_copy_that_is_not_stripped_improves_the_table(
    program: Path, store: SymbolStore, tmp_path: Path
) -> None:
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", "-o", str(stripped), str(program)], check=True)
    build_id = ElfSymbols.open(program).build_id
    first = store.get(str(stripped), build_id)
    assert first is not None and not first.full and not first.find_name("hidden")
    for later in (store, SymbolStore(store.folder.parent)):
        better = later.get(str(program), build_id)
        assert better is not None and better.full and better.find_name("hidden")
        # The stripped copy is now named by it as well.
        assert later.get(str(stripped), build_id) is better


def test_the_cache_is_bounded(program: Path, tmp_path: Path) -> None:
    store = SymbolStore(tmp_path / "cache", limit=40_000)
    for path in (program, Path("/bin/ls"), Path("/bin/cat"), Path("/bin/true")):
        assert store.get(str(path)) is not None
        assert sum(file.stat().st_size for file in _files(store)) <= 40_000


def test_a_cache_that_cannot_be_written_costs_no_result(program: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    store = SymbolStore(tmp_path / "cache")
    symbols = store.get(str(program))
    assert symbols is not None and symbols.find_name("main")
    symbols.display(np.arange(3))
    store.save()


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("WORKBENCH_CACHE")
    assert cache_folder() == Path("/b/workbench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/c/.cache/workbench")


def test_array_files_refuse_what_they_did_not_write(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_arrays(
        path, {"a": 1}, {"empty": np.zeros(0, np.uint8), "some": np.arange(5, dtype=np.int64)}
    )
    meta, arrays, _, _ = read_arrays(path)
    assert (
        meta == {"a": 1} and arrays["some"].tolist() == [0, 1, 2, 3, 4] and not len(arrays["empty"])
    )
    assert [p.name for p in tmp_path.iterdir()] == ["x"]  # no temporary file is left
    path.write_bytes(b"something else entirely")
    with pytest.raises(BadArrayFile):
        read_arrays(path)
