"""Programs for the tests of the gpu collector: stubs of CUDA libraries with known counts, compiled once."""

from __future__ import annotations

import json
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from workbench.collectors.recorder import Recorder
from workbench.native.build import compiler

SOURCES = Path(__file__).parents[2] / "support" / "gpu"


def compile_c(output: Path, *sources: str, flags: tuple[str, ...] = ()) -> Path:
    """Compile test sources; -O1, as -O2 folds equal functions of a stub into one."""
    files = [str(SOURCES / source) for source in sources]
    command = [compiler(), "-O1", "-g", "-Wall", "-Wextra", "-o", str(output), *files, *flags]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return output


class Programs:
    """The compiled programs, in a folder that lives as long as the tests."""

    def __init__(self, folder: Path) -> None:
        shared = ("-shared", "-fPIC")
        here = ("-L" + str(folder), f"-Wl,-rpath,{folder}")
        self.folder = folder
        self.cuda = compile_c(folder / "libcuda.so.1", "stub_cuda.c", flags=(*shared, "-Wl,-soname,libcuda.so.1"))
        (folder / "libcuda.so").symlink_to("libcuda.so.1")
        soname = "-Wl,-soname,libcudart.so.13"
        self.cudart = compile_c(folder / "libcudart.so.13", "stub_cudart.c", flags=(*shared, soname))
        (folder / "libcudart.so").symlink_to("libcudart.so.13")
        self.shared = compile_c(folder / "shared", "work.c", flags=(*here, "-lcudart", "-rdynamic"))
        hidden = "-fvisibility=hidden"
        self.static = compile_c(folder / "static", "work.c", "stub_cudart.c", flags=(hidden,))
        # Without a build id: by that, the symbols of an unstripped copy seen earlier would be found.
        self.stripped = compile_c(
            folder / "stripped", "work.c", "stub_cudart.c", flags=(hidden, "-s", "-Wl,--build-id=none")
        )
        self.driver = compile_c(folder / "driver", "driver_work.c", flags=(*here, "-lcuda"))
        self.plugin = compile_c(
            folder / "plugin.so", "work.c", flags=(*shared, "-DLATER", *here, "-lcudart", "-Wl,-z,now")
        )
        self.later = compile_c(folder / "later", "later.c", flags=("-ldl",))
        layered = folder / "layered"
        layered.mkdir()
        compile_c(
            layered / "libcudart.so.13", "stub_cudart.c", flags=(*shared, soname, "-DON_DRIVER", *here, "-lcuda")
        )
        (layered / "libcudart.so").symlink_to("libcudart.so.13")
        both = (f"-L{layered}", f"-Wl,-rpath,{layered}:{folder}", "-lcudart", *here, "-lcuda", "-rdynamic")
        self.layered = compile_c(folder / "layers", "work.c", flags=both)


@cache
def programs() -> Programs:
    folder = tempfile.TemporaryDirectory(prefix="workbench-gpu-")
    made = Programs(Path(folder.name))
    made.keep = folder  # type: ignore[attr-defined]
    return made


def record_command(
    spec: str, command: list[str], folder: Path, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Record a command to its end: the recording, and the JSON that it printed."""
    output = folder / "output"
    with output.open("wb") as file:
        recorder = Recorder([spec], output=folder / "recording", command=command, stdout=file, **options)
        recording = recorder.run()
    assert recorder.exit_status == 0
    return recording, json.loads(output.read_text().splitlines()[-1])
