"""A small typed binding of libbpf: only the calls the kernel backend makes.

Any libbpf 1.x works. Attach types that older libbpf versions do not know go through `bpf_syscall` instead.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from functools import cache
from pathlib import Path
from typing import Any

from workbench.errors import MissingCapability, NotPermitted, TargetGone

__all__ = ("capture_log", "errno_error", "library", "log_text")

_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39
_P, _I, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
_U32, _U64, _SIZE = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "bpf_object__open_mem": (_P, (_P, _SIZE, _P)),
    "bpf_object__load": (_I, (_P,)),
    "bpf_object__close": (None, (_P,)),
    "bpf_object__next_program": (_P, (_P, _P)),
    "bpf_object__next_map": (_P, (_P, _P)),
    "bpf_program__name": (_S, (_P,)),
    "bpf_program__section_name": (_S, (_P,)),
    "bpf_program__fd": (_I, (_P,)),
    "bpf_program__set_autoload": (_I, (_P, ctypes.c_bool)),
    "bpf_program__set_expected_attach_type": (_I, (_P, _I)),
    "bpf_program__set_flags": (_I, (_P, ctypes.c_uint32)),
    "bpf_program__set_type": (_I, (_P, _I)),
    "bpf_program__set_attach_target": (_I, (_P, _I, _S)),
    "bpf_program__set_log_buf": (_I, (_P, _P, _SIZE)),
    "bpf_program__set_log_level": (_I, (_P, _U32)),
    "bpf_map__name": (_S, (_P,)),
    "bpf_map__fd": (_I, (_P,)),
    "bpf_map__type": (_I, (_P,)),
    "bpf_map__key_size": (_U32, (_P,)),
    "bpf_map__value_size": (_U32, (_P,)),
    "bpf_map__max_entries": (_U32, (_P,)),
    "bpf_map__map_flags": (_U32, (_P,)),
    "bpf_map__set_max_entries": (_I, (_P, _U32)),
    "bpf_map__set_map_flags": (_I, (_P, _U32)),
    "bpf_map__reuse_fd": (_I, (_P, _I)),
    "bpf_map__initial_value": (_P, (_P, ctypes.POINTER(_SIZE))),
    "bpf_map__attach_struct_ops": (_P, (_P,)),
    "bpf_link__fd": (_I, (_P,)),
    "bpf_link__disconnect": (None, (_P,)),
    "bpf_link__destroy": (_I, (_P,)),
    "bpf_map_lookup_elem_flags": (_I, (_I, _P, _P, _U64)),
    "bpf_map_update_elem": (_I, (_I, _P, _P, _U64)),
    "bpf_map_delete_elem": (_I, (_I, _P)),
    "bpf_map_get_next_key": (_I, (_I, _P, _P)),
    "bpf_map_lookup_batch": (_I, (_I, _P, _P, _P, _P, ctypes.POINTER(_U32), _P)),
    "bpf_map_update_batch": (_I, (_I, _P, _P, ctypes.POINTER(_U32), _P)),
    "bpf_raw_tracepoint_open": (_I, (_S, _I)),
    "bpf_prog_test_run_opts": (_I, (_I, _P)),
    "libbpf_num_possible_cpus": (_I, ()),
    "libbpf_set_print": (_P, (_P,)),
    "libbpf_version_string": (_S, ()),
}
_PRINT = ctypes.CFUNCTYPE(_I, _I, _P, _P)
_messages: list[str] = []


@cache
def library() -> ctypes.CDLL:
    """libbpf with typed signatures; its messages are captured, never printed.

    Raises
    ------
    MissingCapability
        libbpf is not installed.
    """
    name = ctypes.util.find_library("bpf") or "libbpf.so.1"
    try:
        lib = ctypes.CDLL(name, use_errno=True)
        for function, (result, arguments) in _SIGNATURES.items():
            entry = getattr(lib, function)
            entry.restype, entry.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise MissingCapability(
            f"libbpf 1.x cannot be loaded: {error}", "install it (Debian: apt-get install libbpf1)"
        ) from error
    lib.libbpf_set_print(ctypes.cast(_print, _P))
    return lib


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.vsnprintf.argtypes = (_P, _SIZE, _P, _P)
    return libc


def _print_message(level: int, pattern: int, arguments: int) -> int:
    # Level 2 is debug. A va_list argument is a pointer on the x86-64 and aarch64 Linux ABIs, so it passes through.
    if level < 2:
        buffer = ctypes.create_string_buffer(2048)
        _libc().vsnprintf(buffer, len(buffer), pattern, arguments)
        _messages.append(buffer.value.decode("utf-8", "replace"))
        del _messages[:-200]
    return 0


_print = _PRINT(_print_message)


def capture_log() -> None:
    """Forget earlier libbpf messages; take those to come back from another user of libbpf in this process (bcc)."""
    library().libbpf_set_print(ctypes.cast(_print, _P))
    _messages.clear()


def log_text() -> str:
    """libbpf's messages since `capture_log`."""
    return "".join(_messages).strip()


def _has_bpf_privilege() -> bool:
    """Whether this process has what BPF takes (capabilities(7)): to become root would change nothing then."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        held = int(next(line for line in lines if line.startswith("CapEff:")).split()[1], 16)
    except (OSError, StopIteration):
        return os.geteuid() == 0
    return bool(held >> _CAP_SYS_ADMIN & 1 or (held >> _CAP_BPF & 1 and held >> _CAP_PERFMON & 1))


def _privilege_hint(row: str) -> str:
    if _has_bpf_privilege():
        return (
            "this user has the privilege: the kernel lacks it or refuses it to everybody (a container, lockdown); "
            f"`workbench doctor{f' {row}' if row else ''}` says more"
        )
    return "run as root, or give the interpreter CAP_BPF and CAP_PERFMON (see `workbench doctor`)"


def errno_error(
    what: str, number: int, row: str = ""
) -> NotPermitted | MissingCapability | TargetGone:
    """The error for a failed BPF call: EPERM and EACCES are about privilege, all else about the machine.

    `row` is the row of `workbench doctor` that is about it.
    """
    number = abs(number)
    # 524 is ENOTSUPP of the kernel, which strerror does not know.
    text = "not supported here" if number == 524 else os.strerror(number)
    if number == 3:
        return TargetGone(f"{what}: {text}", "the process exited; check the pid")
    if number in (1, 13):
        return NotPermitted(f"{what}: {text}", _privilege_hint(row))
    return MissingCapability(
        f"{what}: {text}", "see `workbench doctor` for what this machine can do"
    )
