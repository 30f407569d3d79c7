"""bcc as an optional backend for one-liners: C in a string, compiled at once, maps as numpy arrays and dicts.

bcc comes from the distribution (Debian: python3-bpfcc), not from a package index. It compiles against kernel headers
and relocates nothing, so a program that reads kernel structs is refused unless the headers are those of the running
kernel; everything that reads structs belongs into a CO-RE object (`wb.compile`). Compiling takes 1 to 3 s and about
130 MiB, because LLVM is loaded into this process.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from workbench.errors import CompileFailed, MissingCapability, NotPermitted
from workbench.kernel.bcc_guard import kernel_reads
from workbench.kernel.bcc_headers import Headers, find_headers
from workbench.objects.compile import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ("BccProgram", "bcc_module", "bcc_program")

_DISTRIBUTION = ("/usr/lib/python3/dist-packages", "/usr/lib/python3*/site-packages")


def bcc_module() -> ModuleType:
    """The distribution's bcc, in this interpreter whichever it is: it is plain Python over a C library.

    Raises
    ------
    MissingCapability
        It is not installed, or its library cannot be loaded.
    """
    if "bcc" in sys.modules and hasattr(sys.modules["bcc"], "BPF"):
        return sys.modules["bcc"]
    hint = "optional; Debian: apt-get install python3-bpfcc (the package bcc on PyPI is something else)"
    for pattern in _DISTRIBUTION:
        for folder in sorted(Path("/").glob(pattern.lstrip("/"))):
            if not (folder / "bcc/libbcc.py").exists():
                continue
            try:
                return _import_from(folder)
            except (OSError, ImportError) as error:
                raise MissingCapability(f"bcc cannot be loaded: {error}", hint) from error
    raise MissingCapability("bcc is not installed", hint)


def _import_from(folder: Path) -> ModuleType:
    """Import the one package without putting its folder, and all else in it, on the path."""
    spec = importlib.util.spec_from_file_location(
        "bcc", folder / "bcc/__init__.py", submodule_search_locations=[str(folder / "bcc")]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for name in [name for name in sys.modules if name.partition(".")[0] == "bcc"]:
            del sys.modules[name]
        raise
    return module


class BccProgram:
    """A compiled and attached bcc program; made by `bcc_program`.

    ``bpf`` is bcc's own object, for ``attach_uprobe`` and the like; ``headers`` is what it was compiled against.
    """

    def __init__(self, bpf: Any, headers: Headers) -> None:
        self.bpf = bpf
        self.headers = headers

    def array(self, name: str) -> NDArray[np.generic]:
        """The values of an array map, by index: shape (entries,), dtype by the C type of the value.

        Of a per-CPU array: shape (entries, CPUs).
        """
        import numpy as np

        table = self._table(name)
        return np.array([_plain(table[key]) for key in table])

    def table(self, name: str) -> dict[Any, Any]:
        """A hash map as a dict: numbers stay numbers, structs become tuples, char arrays become str."""
        return {_plain(key): _plain(value) for key, value in self._table(name).items()}

    def _table(self, name: str) -> Any:
        try:
            return self.bpf[name.encode()]
        except KeyError:
            raise KeyError(f"the program declares no map {name!r}") from None


def _plain(value: Any) -> Any:
    """A ctypes value as numbers, tuples and text."""
    fields = getattr(value, "_fields_", None)
    if fields is not None:
        return tuple(_plain(getattr(value, field[0])) for field in fields)
    if isinstance(value, bytes):
        return value.partition(b"\0")[0].decode(errors="replace")
    if hasattr(value, "value"):
        return _plain(value.value)
    if hasattr(value, "__len__") and not isinstance(value, str):
        return tuple(_plain(one) for one in value)
    return value


@contextmanager
def bcc_program(text: str, cflags: Sequence[str] = ()) -> Iterator[BccProgram]:
    """Compile, load and attach `text`; detach and unload at the end.

    Functions named ``kprobe__X``, ``tracepoint__X`` or by ``RAW_TRACEPOINT_PROBE(X)`` attach by themselves.

    Parameters
    ----------
    text : str
        bcc's dialect of C.
    cflags : sequence of str
        Further flags for its compiler.

    Raises
    ------
    MissingCapability
        bcc or any headers are missing, or the program reads kernel structs and the headers are of another kernel.
    CompileFailed
        With the compiler's diagnostics.
    NotPermitted
        Loading needs root or CAP_BPF and CAP_PERFMON.

    Examples
    --------
    >>> with bcc_program("BPF_HASH(n, u32); RAW_TRACEPOINT_PROBE(sys_enter)"
    ...                  "{ n.increment(bpf_get_current_pid_tgid() >> 32); return 0; }") as program:
    ...     time.sleep(1)
    ...     calls = program.table("n")
    """
    headers = find_headers(cache_folder())
    if not headers.running:
        _refuse_kernel_reads(text, headers)
    module = bcc_module()
    program = BccProgram(_compile(module, text, cflags, headers), headers)
    try:
        yield program
    finally:
        program.bpf.cleanup()


def _refuse_kernel_reads(text: str, headers: Headers) -> None:
    reads = kernel_reads(text)
    if not reads:
        return
    shown = "\n".join(f"  line {read.line}: {read.text}  ({read.why})" for read in reads[:5])
    more = f"\n  and {len(reads) - 5} more" if len(reads) > 5 else ""
    release = os.uname().release
    raise MissingCapability(
        f"the program reads kernel structs, but the headers are of Linux {headers.release} and the kernel that runs is "
        f"{release}: bcc would compile the wrong offsets in and read wrong values without an error\n{shown}{more}",
        f"write it as a CO-RE program (wb.compile relocates fields by BTF), or install linux-headers-{release}",
    )


def _compile(module: ModuleType, text: str, cflags: Sequence[str], headers: Headers) -> Any:
    with _kernel_source(headers.path), tempfile.TemporaryFile() as said:
        try:
            with _standard_error_into(said.fileno()):
                return module.BPF(text=text.encode(), cflags=["-w", *cflags])
        except Exception as error:  # bcc raises bare Exception for everything
            said.seek(0)
            diagnostics = said.read().decode(errors="replace").strip()
            message = str(error)
            if "privileges" in message or "Operation not permitted" in diagnostics:
                raise NotPermitted(
                    f"bcc: {message}", "run as root, or give the interpreter CAP_BPF and CAP_PERFMON"
                ) from error
            hint = "the C is bcc's dialect, see its reference"
            raise CompileFailed(f"bcc: {message}\n{diagnostics}", hint) from error


@contextmanager
def _kernel_source(path: Path | None) -> Iterator[None]:
    """BCC_KERNEL_SOURCE for the time of a compilation."""
    name = "BCC_KERNEL_SOURCE"
    before = os.environ.get(name)
    if path is not None:
        os.environ[name] = str(path)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextmanager
def _standard_error_into(fd: int) -> Iterator[None]:
    """The compiler inside bcc writes to file descriptor 2; keep it for the error message."""
    sys.stderr.flush()
    saved = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
