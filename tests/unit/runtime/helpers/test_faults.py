"""Programs that read memory which is not there survive it in any process: each case runs in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PRELUDE = """
import ctypes, mmap, os, signal, threading
from workbench.runtime.helpers import faults
from workbench.runtime.helpers.native import CRun, StandaloneRun, core

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
PAGE = mmap.PAGESIZE

def pages(count):
    return libc.mmap(None, count * PAGE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)

run = StandaloneRun()
to = ctypes.create_string_buffer(b"x" * 64, 64)
TO = ctypes.addressof(to)

def read(address, size=8, name="probe_read_user", new_run=True):
    if new_run:
        run.struct.checked = 0  # as wb_execute does when a program begins
    return run.call(name, TO, size, address)

nowhere = pages(1)
libc.mprotect(nowhere, PAGE, 0)
BAD = [0, 8, 4096, nowhere, nowhere + PAGE - 1, 1 << 47, (1 << 63) + 8, (1 << 64) - 1, -4096, 0xdead << 48]

def bad_ones_are_refused():
    for address in BAD:
        for name in ("probe_read_user", "probe_read_kernel", "probe_read", "probe_read_user_str"):
            to.raw = b"x" * 64
            assert read(address, 16, name) == -14, (hex(address), name)
            assert to.raw == bytes(16) + b"x" * 48

def good_ones_are_read():
    text = ctypes.create_string_buffer(b"good morning")
    assert read(ctypes.addressof(text), 12) == 0
    assert to.raw[:12] == b"good morning"
"""


def survives(body: str, *, faulthandler: bool = False) -> None:
    command = [sys.executable, *(["-X", "faulthandler"] if faulthandler else []), "-c"]
    done = subprocess.run([*command, PRELUDE + body], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize("faulthandler", [False, True])
def test_bad_pointers_give_efault_and_zeros(protected: bool, faulthandler: bool) -> None:
    survives(
        f"""
if {protected}:
    faults.protect()
    assert faults.armed()
bad_ones_are_refused()
good_ones_are_read()
""",
        faulthandler=faulthandler,
    )


def test_a_thread_that_blocks_sigsegv_survives() -> None:
    survives("""
faults.protect()
good_ones_are_read()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGSEGV, signal.SIGBUS})
bad_ones_are_refused()
good_ones_are_read()
assert not faults.armed()
""")


def test_a_process_whose_handler_was_replaced_survives() -> None:
    survives("""
faults.protect()
good_ones_are_read()
signal.signal(signal.SIGSEGV, signal.SIG_DFL)
signal.signal(signal.SIGBUS, signal.SIG_DFL)
assert not faults.armed()
bad_ones_are_refused()
good_ones_are_read()
assert not faults.unprotect()
""")


def test_a_page_that_vanished_from_one_run_to_the_next_is_noticed_without_handlers() -> None:
    survives("""
place = pages(1)
assert read(place) == 0
libc.munmap(place, PAGE)
assert read(place) == -14
place = pages(1)
faults.protect()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGSEGV})
assert read(place) == 0
libc.mprotect(place, PAGE, 0)
assert read(place) == -14
""")


def test_a_page_that_vanishes_while_it_is_believed_in_is_caught_by_the_handler() -> None:
    survives("""
faults.protect()
for _ in range(50):
    place = pages(2)
    assert read(place + PAGE - 8, 16) == 0
    libc.mprotect(place + PAGE, PAGE, 0)
    to.raw = b"x" * 64
    assert read(place + PAGE - 8, 16, new_run=False) == -14
    assert to.raw[:16] == bytes(16)
    libc.munmap(place, 2 * PAGE)
""")


def test_a_mapped_file_that_was_cut_short_is_an_error() -> None:
    survives("""
import tempfile
with tempfile.TemporaryFile() as file:
    file.truncate(2 * PAGE)
    held = mmap.mmap(file.fileno(), 2 * PAGE)
    place = ctypes.addressof(ctypes.c_char.from_buffer(held))
    faults.protect()
    assert read(place + PAGE) == 0
    file.truncate(PAGE)
    assert read(place + PAGE, new_run=False) == -14   # SIGBUS, caught
    assert read(place + PAGE) == -14                  # found unreadable before
    assert read(place) == 0
""")


def test_the_applications_own_faults_still_reach_its_handler() -> None:
    survives("""
import ctypes
Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
seen = []
jump = ctypes.CFUNCTYPE(ctypes.c_int)
libc.sigaction.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
place = pages(1)
libc.mprotect(place, PAGE, 0)
def handler(number):
    seen.append(number)
    libc.mprotect(place, PAGE, 3)
held = Handler(handler)
libc.signal.restype = ctypes.c_void_p
libc.signal.argtypes = [ctypes.c_int, Handler]
libc.signal(signal.SIGSEGV, held)
faults.protect()
ctypes.c_long.from_address(place).value = 42      # faults, the handler makes the page writable, the store is repeated
assert seen == [signal.SIGSEGV]
assert ctypes.c_long.from_address(place).value == 42
bad_ones_are_refused()
os.kill(os.getpid(), signal.SIGSEGV)
assert seen == [signal.SIGSEGV] * 2
assert faults.unprotect()
""")


@pytest.mark.parametrize("how", ["ctypes.string_at(8, 1)", "os.kill(os.getpid(), signal.SIGSEGV)"])
def test_the_default_action_is_still_death(how: str) -> None:
    body = (
        PRELUDE
        + f"\nimport resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nfaults.protect()\n{how}\n"
    )
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, timeout=120)
    assert done.returncode == -11, (done.returncode, done.stderr)


def test_threads_read_while_others_take_the_memory_away() -> None:
    survives("""
faults.protect()
stop = threading.Event()
place = pages(16)

def changer():
    while not stop.is_set():
        libc.mprotect(place, 16 * PAGE, 0)
        libc.mprotect(place, 16 * PAGE, 3)

other = threading.Thread(target=changer)
other.start()
answers = set()
for i in range(20000):
    answers.add(read(place + i * 512 % (15 * PAGE), 32, new_run=not i % 8))
stop.set()
other.join()
assert answers <= {0, -14}, answers
""")


def test_writes_go_where_they_may_only() -> None:
    survives("""
place = pages(2)
libc.mprotect(place + PAGE, PAGE, 1)
data = ctypes.create_string_buffer(b"written!")
D = ctypes.addressof(data)
assert run.call("probe_write_user", place, D, 8) == 0
assert ctypes.string_at(place, 8) == b"written!"
assert run.call("probe_write_user", place + PAGE, D, 8) == -14    # readable, not writable
for address in BAD:
    assert run.call("probe_write_user", address, D, 8) == -14
""")


def test_texts_end_at_their_nul_even_if_the_next_page_is_missing() -> None:
    survives("""
place = pages(2)
libc.mprotect(place + PAGE, PAGE, 0)
edge = place + PAGE - 6
ctypes.memmove(edge, b"hello\\0", 6)
for at in range(6):
    to.raw = b"x" * 64
    assert read(edge + at, 64, "probe_read_user_str") == 6 - at
    assert to.raw[: 7 - at] == b"hello"[at:] + b"\\0x"
ctypes.memmove(edge, b"no end", 6)
assert read(edge, 64, "probe_read_user_str") == -14
assert read(edge, 6, "probe_read_user_str") == 6       # cut: the last byte becomes NUL
assert to.raw[:6] == b"no en\\0"
assert read(edge, 1, "probe_read_user_str") == 1 and to.raw[:1] == b"\\0"
assert read(edge, 0, "probe_read_user_str") == 0
""")
