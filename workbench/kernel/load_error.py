"""Why the kernel did not load an object: the refused program, the map that has no room, or the missing privilege."""

from __future__ import annotations

import ctypes
import errno
import re
from typing import TYPE_CHECKING

from workbench.errors import MissingCapability, NotPermitted, WorkbenchError
from workbench.kernel.libbpf import errno_error, library, log_text
from workbench.kernel.maps import PERCPU_ARRAY, PERCPU_HASH, possible_cpus
from workbench.kernel.verifier_log import rejection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workbench.objects.model import BpfObject

__all__ = ("doctor_row", "load_error")

_RING_BUFFER = 27
_NO_ROOM = (errno.E2BIG, errno.ENOMEM)
_FAILED_MAP = re.compile(r"map '([^']+)': failed to create")
# libbpf writes all of the object's types where one of them, such as a map's oversized array, is refused.
_TYPES_LOG = re.compile(r"libbpf: -- BEGIN BTF LOAD LOG ---.*?-- END BTF LOAD LOG --\n?", re.DOTALL)
_ROWS = {
    "fentry": "fentry", "fexit": "fentry", "fmod_ret": "fentry", "lsm": "BPF LSM",
    "struct_ops": "sched_ext", "tp_btf": "BTF tracepoint", "kprobe": "kprobe", "kretprobe": "kprobe",
}  # fmt: skip


def doctor_row(sections: Iterable[str]) -> str:
    """The row of `workbench doctor` about the first of these sections that not every kernel has; empty for none."""
    kinds = (one.removeprefix("?").partition("/")[0].partition(".")[0] for one in sections)
    row = next((_ROWS[kind] for kind in kinds if kind in _ROWS), "")
    return f"'{row}'" if " " in row else row


def load_error(
    obj: BpfObject,
    handle: int,
    result: int,
    logs: Mapping[str, ctypes.Array[ctypes.c_char]],
) -> WorkbenchError:
    """The error of a failed `bpf_object__load`.

    Parameters
    ----------
    obj : BpfObject
    handle : int
        libbpf's object.
    result : int
        What the load gave: negative errno.
    logs : mapping
        Verifier log of every program that was to be loaded, by its name.
    """
    for name, buffer in logs.items():
        # libbpf retries a failed load with the log on: only the refused program has one.
        log = buffer.value.decode("utf-8", "replace")
        if log.strip() and (
            "processed" in log or "invalid" in log or result in (-errno.EINVAL, -errno.EACCES)
        ):
            section = next((p.section for p in obj.programs if p.name == name), "")
            lines = {line.instruction: line.text for line in obj.lines if line.section == section}
            return rejection(name, log, lines)
    text = log_text()
    failed = _FAILED_MAP.search(text)
    error = _map_error(handle, failed[1], result) if failed else None
    if error is None:
        sections = [one.section for one in obj.programs if one.name in logs]
        error = errno_error(f"cannot load {obj.name}", result, doctor_row(sections))
        short = _TYPES_LOG.sub("", text).strip()
        if short and not isinstance(error, NotPermitted):  # libbpf's guesses at a privilege mislead
            error.message += f"\n{short}"
    if isinstance(error, MissingCapability):
        error.log = text
    return error


def _map_error(handle: int, name: str, result: int) -> WorkbenchError | None:
    """The error of a map that could not be made, with what it takes; None where libbpf does not know it."""
    lib = library()
    current = lib.bpf_object__next_map(handle, None)
    while current and lib.bpf_map__name(current).decode() != name:
        current = lib.bpf_object__next_map(handle, current)
    if not current:
        return None
    kind, entries = lib.bpf_map__type(current), lib.bpf_map__max_entries(current)
    key, value = lib.bpf_map__key_size(current), lib.bpf_map__value_size(current)
    shape = f"{entries:,} entries with a key of {key} and a value of {value} bytes"
    size = entries * (key + value)
    if kind == _RING_BUFFER:
        shape, size = "a ring", entries
    elif kind in (PERCPU_HASH, PERCPU_ARRAY):
        size = entries * (key + value * possible_cpus())
        shape += f" on each of {possible_cpus()} CPUs"
    if -result not in _NO_ROOM:
        return errno_error(f"cannot make map {name!r} ({shape})", result)
    return MissingCapability(
        f"map {name!r} needs {size / 2**20:,.1f} MiB of the kernel's memory ({shape}), more than it gives",
        f"lower max_entries, for example load(..., map_sizes={{{name!r}: 10_000}}); "
        "what libbpf wrote is in the error's `.log`",
    )
