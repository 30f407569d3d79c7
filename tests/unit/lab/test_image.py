"""What goes into a guest's file system, and that the image holds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.lab.contents import SITE, contents, libraries, listing
from workbench.lab.image import make_ext4
from workbench.lab.libraries import closure, is_elf

SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@pytest.mark.skipif(not shutil.which("mke2fs", path=SBIN), reason="there is no mke2fs")
def test_the_image_holds_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    data = os.urandom(100_000)
    (tree / "a" / "data").write_bytes(data)
    (tree / "link").symlink_to("a/data")
    for at in range(300):
        (tree / f"file-{at}").write_text("x")
    image = tmp_path / "one.ext4"
    make_ext4(tree, image, spare=1 << 20)
    assert image.stat().st_size % (16 << 20) == 0
    assert not (tmp_path / "one.part").exists()
    tool = shutil.which("debugfs", path=SBIN)
    assert tool
    out = subprocess.run(
        [tool, "-R", "cat /a/data", str(image)], capture_output=True, check=True
    ).stdout
    assert out == data
    out = subprocess.run(
        [tool, "-R", "stat /link", str(image)], capture_output=True, check=True
    ).stdout
    assert b'"a/data"' in out
    again = tmp_path / "two.ext4"
    make_ext4(tree, again, spare=1 << 20)
    assert again.stat().st_size == image.stat().st_size


def test_this_python_and_what_records_are_in_it() -> None:
    found = contents()
    interpreter = Path(sys.executable).resolve()
    assert interpreter in found.values()
    assert found[f"{SITE}/numpy/__init__.py"].is_file()
    assert any(place.startswith(f"{SITE}/pyarrow/") for place in found)
    assert any(place.endswith("/encodings/utf_8.py") for place in found)
    tops = {place.split("/", 1)[0] for place in found}
    assert not tops & {"bin", "sbin", "lib", "lib64"}  # /usr is merged
    assert all(".." not in place.split("/") and not place.startswith("/") for place in found)
    assert len(list(listing(sorted(found.items())))) == len(found)
    small = {place: path for place, path in found.items() if path == interpreter}
    linked = libraries(small)
    assert any(place.endswith("libc.so.6") for place in linked)
    assert any("ld-linux" in place for place in linked)


def test_packages_that_were_extracted_are_put_where_they_belong(tmp_path: Path) -> None:
    for name in ("bin/tool", "usr/share/doc/tool/copyright", "etc/tool.conf", "usr/lib/tool/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = contents(tmp_path)
    assert found["usr/bin/tool"] == tmp_path / "bin/tool"
    assert found["etc/tool.conf"] == tmp_path / "etc/tool.conf"
    assert "usr/lib/tool/x" in found and not any(
        "copyright" in place and "doc/tool" in place for place in found
    )


def test_libraries_of_what_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    assert not is_elf(tmp_path / "text") and not is_elf(tmp_path / "none")
    assert closure([tmp_path / "text", tmp_path / "none"]) == set()
