"""The interpreter on the runtime's own maps and helpers: same results as the reference, wrong arguments are faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from workbench.objects.linked import LinkedMap
from workbench.runtime.interpreter import Interpreter, ProgramFault
from workbench.runtime.interpreter.helpers import REFERENCE_HELPERS
from workbench.runtime.interpreter.maps import ReferenceMap
from workbench.runtime.interpreter.native import NativeRun
from workbench.runtime.isa import assemble
from workbench.runtime.maps import Space

SHAPES = (
    LinkedMap("counts", 2, 4, 8, 4),
    LinkedMap("table", 1, 4, 8, 2),
    LinkedMap("events", 27, 0, 0, 4096),
)
NAMES = tuple(shape.name for shape in SHAPES)
KEY = "r2 = r10\nr2 += -4\n*(u32 *)(r10 - 4) = {}\n"
VALUE = "r3 = r10\nr3 += -16\n*(u64 *)(r10 - 16) = {}\n"

SAME = {
    "array": KEY.format(2)
    + "r1 = map[counts] ll\ncall bpf_map_lookup_elem\nr6 = r0\n*(u64 *)(r6 + 0) = 5\n"
    + KEY.format(9)
    + "r1 = map[counts] ll\ncall bpf_map_lookup_elem\nr1 = *(u64 *)(r6 + 0)\nr0 += r1\nexit",
    "direct value": "r1 = map[counts][0]+0 ll\n*(u64 *)(r1 + 0) = 8\nr0 = *(u64 *)(r1 + 0)\nexit",
    "hash": "\n".join(
        f"{KEY.format(key)}{VALUE.format(key * 3)}r1 = map[table] ll\nr4 = {flags}\ncall bpf_map_update_elem\n"
        f"r7 = {'r0' if at == 0 else 'r7'}\n" + ("r7 <<= 8\nr7 += r0\n" if at else "")
        for at, (key, flags) in enumerate(((1, 0), (1, 1), (2, 2), (2, 0), (3, 0)))
    )
    + KEY.format(2)
    + "r1 = map[table] ll\ncall bpf_map_delete_elem\nr0 += r7\nexit",
    "loop": "r1 = 10\nr2 = subprog[f] ll\nr3 = r10\nr3 += -8\n*(u64 *)(r3 + 0) = 0\nr4 = 0\ncall bpf_loop\n"
    "r1 = *(u64 *)(r10 - 8)\nr1 <<= 8\nr0 |= r1\nexit\n"
    "f: r3 = *(u64 *)(r2 + 0)\nr3 += r1\n*(u64 *)(r2 + 0) = r3\nr0 = r1\nr0 s>>= 2\nexit",
    "record": "r1 = map[events] ll\nr2 = 8\nr3 = 0\ncall bpf_ringbuf_reserve\nif r0 == 0 goto end\n"
    "*(u64 *)(r0 + 0) = 7\nr1 = r0\nr2 = 0\ncall bpf_ringbuf_submit\nend: r0 = 1\nexit",
    "compare": "*(u64 *)(r10 - 8) = 0x616263\nr1 = r10\nr1 += -8\nr2 = 4\nr3 = r1\ncall bpf_strncmp\nexit",
}
WRONG = {
    "key outside the stack": ("r2 = r10\nr1 = map[counts] ll\ncall bpf_map_lookup_elem\nexit", "reads 4 bytes"),
    "no map": (KEY.format(1) + "r1 = 7\ncall bpf_map_lookup_elem\nexit", "for a map"),
    "value too far": (
        KEY.format(1) + "r1 = map[counts] ll\ncall bpf_map_lookup_elem\nr0 = *(u64 *)(r0 + 8)\nexit",
        "value of counts, which has 8 bytes",
    ),
    "buffer too large": (
        "r1 = r10\nr1 += -8\nr2 = 9\nr3 = 0\ncall bpf_probe_read_kernel\nexit",
        "writes 9 bytes",
    ),
    "record used after submit": (
        "r1 = map[events] ll\nr2 = 8\nr3 = 0\ncall bpf_ringbuf_reserve\nr6 = r0\nr1 = r0\nr2 = 0\n"
        "call bpf_ringbuf_submit\nr0 = *(u64 *)(r6 + 0)\nexit",
        "reads 8 bytes",
    ),
    "no record": ("r1 = r10\nr1 += -8\nr2 = 0\ncall bpf_ringbuf_submit\nexit", "stack of frame 0"),
    "unknown helper": ("call 9999\nexit", "there is none here"),
    "fault in a callback": (
        "r1 = 3\nr2 = subprog[f] ll\nr3 = 0\nr4 = 0\ncall bpf_loop\nexit\nf: r0 = *(u8 *)(r2 + 0)\nexit",
        "a null pointer",
    ),
}


def native(text: str) -> int:
    with Space(None) as space:
        maps = [space.create(shape) for shape in SHAPES]
        with NativeRun(space, maps, SHAPES) as run:
            return Interpreter(assemble(text, maps=NAMES), maps=run.maps, helpers=run.helpers).run().r0


def reference(text: str) -> int:
    maps = [ReferenceMap(shape) for shape in SHAPES]
    return Interpreter(assemble(text, maps=NAMES), maps=maps, helpers=REFERENCE_HELPERS).run().r0


@pytest.mark.needs("native core")
@pytest.mark.parametrize("what", SAME)
def test_same_as_the_reference(what: str) -> None:
    assert native(SAME[what]) == reference(SAME[what])


@pytest.mark.needs("native core")
@pytest.mark.parametrize("run", [native, reference])
@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_faults(what: str, run: Callable[[str], int]) -> None:
    text, reason = WRONG[what]
    with pytest.raises(ProgramFault) as caught:
        run(text)
    if run is native:
        assert reason in caught.value.reason
