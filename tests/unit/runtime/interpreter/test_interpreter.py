"""The reference interpreter: what runs, and what is a fault with its slot and reason."""

from __future__ import annotations

import ctypes

import pytest

from workbench.objects.linked import Function, Line, LinkedMap, LinkedProgram
from workbench.runtime.interpreter import Interpreter, ProgramFault
from workbench.runtime.interpreter.helpers import REFERENCE_HELPERS
from workbench.runtime.interpreter.maps import ReferenceMap
from workbench.runtime.interpreter.memory import Allocation
from workbench.runtime.isa import assemble

COUNTS = LinkedMap("counts", 2, 4, 8, 4)
TABLE = LinkedMap("table", 1, 4, 8, 2)
EVENTS = LinkedMap("events", 27, 0, 0, 4096)
NAMES = ("counts", "table", "events")
KEY_ON_STACK = "r2 = r10\nr2 += -4\n*(u32 *)(r10 - 4) = 1\n"


def machine(text: str, **options: object) -> Interpreter:
    maps = [ReferenceMap(shape) for shape in (COUNTS, TABLE, EVENTS)]
    return Interpreter(assemble(text, maps=NAMES), maps=maps, helpers=REFERENCE_HELPERS, **options)  # type: ignore[arg-type]


def fault(text: str, **options: object) -> ProgramFault:
    memory = Allocation(16)
    with pytest.raises(ProgramFault) as caught:
        machine(text, **options).run(
            [memory.address, 16], [(memory.address, 8, "context", False), (memory.address + 8, 8, "data", True)]
        )
    return caught.value


@pytest.mark.parametrize(
    ("text", "slot", "reason"),
    [
        ("r0 = r3\nexit", 0, "reads r3, which has no value"),
        ("r10 = 0\nexit", 0, "writes r10"),
        ("r0 = *(u64 *)(r10 - 520)\nexit", 0, "reads 8 bytes"),
        ("r0 = *(u8 *)(r10 + 0)\nexit", 0, "offset 512 of stack of frame 0, which has 512 bytes"),
        ("*(u32 *)(r10 - 2) = 1\nexit", 0, "offset 510 of stack"),
        ("*(u32 *)(r10 - 6) = 1\nexit", 0, "misaligned access of 4 bytes at offset 506"),
        ("r0 = *(u8 *)(r1 + 16)\nexit", 0, "offset 8 of data, which has 8 bytes"),
        ("r0 = *(u64 *)(r1 + 4)\nexit", 0, "offset 4 of context, which has 8 bytes"),
        ("*(u32 *)(r1 + 0) = 1\nexit", 0, "context, which is read-only"),
        ("r0 = 1\nr1 = 0\nr0 = *(u8 *)(r1 + 8)\nexit", 2, "a null pointer"),
        ("r1 = 0x123456789abc ll\n*(u8 *)(r1 + 0) = 1\nexit", 2, "outside all of its memory"),
        ("lock *(u32 *)(r1 + 9) += w1\nexit", 0, "misaligned access of 4 bytes at offset 1 of data"),
        ("r0 = 0\nagain: r0 += 1\ngoto again", 2, "is not done after 1,000 instructions"),
        ("r0 = 0", 1, "runs past the end"),
        ("call 9999\nexit", 0, "calls helper 9999"),
        ("call kfunc 12\nexit", 0, "kernel function 12"),
        ("r1 = map[fd:3] ll\nexit", 0, "only the kernel resolves"),
        ("r1 = map[idx:9] ll\nexit", 0, "map 9, of 3"),
        ("call f\nexit\nf: call f\nexit", 2, "deeper than 8 frames"),
        ("r6 = r10\ncall f\nexit\nf: r0 = r6\nexit", 3, "reads r6"),
        ("call f\nr0 = *(u64 *)(r0 - 8)\nexit\nf: r0 = r10\nexit", 1, "reads 8 bytes"),
        ("r1 = 7\n" + KEY_ON_STACK + "call bpf_map_lookup_elem\nexit", 4, "gives 0x7 for a map"),
        ("r1 = map[counts] ll\nr2 = r10\ncall bpf_map_lookup_elem\nexit", 3, "reads 4 bytes"),
        ("r1 = 3\nr2 = 5\nr3 = 0\nr4 = 0\ncall bpf_loop\nexit", 4, "callback 0x5 is no function"),
        ("r1 = 5\ncall bpf_ktime_get_ns\nr0 = r1\nexit", 2, "reads r1"),
    ],
)
def test_faults(text: str, slot: int, reason: str) -> None:
    found = fault(text, steps=1000)
    assert (found.slot, reason in found.reason) == (slot, True), found
    assert f"slot {slot}" in found.message and found.hint


def test_a_fault_names_the_line_and_shows_registers() -> None:
    code = assemble("r6 = 77\nr0 = 0\nr0 = *(u8 *)(r0 + 0)\nexit")
    lines = (Line(0, "a.c", 3, 1, "int x = 77;"), Line(2, "a.c", 5, 9, "\treturn *p;"))
    program = LinkedProgram("main", "kprobe", "kprobe", code, (Function("main", 0, 4),), lines)
    with pytest.raises(ProgramFault) as caught:
        Interpreter(program).run()
    found = caught.value
    assert found.line == lines[1] and "a.c:5: return *p;" in found.message
    assert found.registers[6] == 77 and found.registers[1] is None and "r6=0x4d" in found.hint


def test_the_fault_of_a_subprogram_shows_its_registers() -> None:
    found = fault("r6 = 1\ncall f\nexit\nf: r6 = 2\nr0 = r9\nexit")
    assert (found.slot, found.registers[6]) == (4, 2)


def test_packet_loads() -> None:
    packet = Allocation(6, bytes.fromhex("010203040506"))
    texts = {
        "r6 = r1\nr0 = *(u16 *)skb[0x2]\nexit": 0x0304,
        "r6 = r1\nr0 = *(u32 *)skb[0x2]\nexit": 0x03040506,
        "r6 = r1\nr2 = 1\nr0 = *(u8 *)skb[r2 + 0x4]\nexit": 6,
        "r6 = r1\nr0 = *(u32 *)skb[0x3]\nr0 = 7\nexit": 0,
        "r6 = r1\nr0 = *(u8 *)skb[-0x1]\nr0 = 7\nexit": 0,
    }
    for text, result in texts.items():
        one = machine(text)
        assert one.run([packet.address], packet=(packet.address, 6)).r0 == result, text


def test_maps() -> None:
    text = f"""
        r1 = map[counts][0]+8 ll
        *(u64 *)(r1 - 8) = 3
        {KEY_ON_STACK}
        r1 = map[counts] ll
        call bpf_map_lookup_elem
        *(u64 *)(r0 + 0) = 5
        {KEY_ON_STACK}
        r3 = r10
        r3 += -16
        *(u64 *)(r3 + 0) = 9
        r1 = map[table] ll
        r4 = 1
        call bpf_map_update_elem
        r6 = r0
        {KEY_ON_STACK}
        r3 = r10
        r3 += -16
        r1 = map[table] ll
        r4 = 1
        call bpf_map_update_elem
        r0 += r6
        exit
    """
    one = machine(text)
    assert one.run().r0 == -17 & (1 << 64) - 1  # 0, then -EEXIST
    counts, table, _ = one.maps
    assert isinstance(counts, ReferenceMap) and isinstance(table, ReferenceMap)
    assert [int.from_bytes(value, "little") for value in counts.content.values()] == [3, 5, 0, 0]
    assert table.content == {(1).to_bytes(4, "little"): (9).to_bytes(8, "little")}


def test_a_value_ends_where_it_ends() -> None:
    text = f"{KEY_ON_STACK}r1 = map[counts] ll\ncall bpf_map_lookup_elem\nr0 = *(u64 *)(r0 + 1)\nexit"
    assert "value of counts" in fault(text).reason


def test_callbacks() -> None:
    text = """
        r1 = 10
        r2 = subprog[add] ll
        r3 = r10
        r3 += -8
        *(u64 *)(r3 + 0) = 0
        r4 = 0
        call bpf_loop
        r1 = *(u64 *)(r10 - 8)
        r1 <<= 8
        r0 |= r1
        exit
    add:
        r3 = *(u64 *)(r2 + 0)
        r3 += r1
        *(u64 *)(r2 + 0) = r3
        r0 = 0
        if r1 != 4 goto +1
        r0 = 1
        exit
    """
    assert machine(text).run().r0 == 10 << 8 | 5
    assert "reads r7" in fault(text.replace("r0 = 0\n        if", "r0 = r7\n        if")).reason


def test_for_each_element() -> None:
    text = """
        r1 = map[counts][0]+0 ll
        *(u64 *)(r1 + 0) = 3
        r1 = map[counts] ll
        r2 = subprog[each] ll
        r3 = r10
        r3 += -8
        *(u64 *)(r3 + 0) = 0
        r4 = 0
        call bpf_for_each_map_elem
        r1 = *(u64 *)(r10 - 8)
        r0 += r1
        exit
    each:
        r5 = *(u32 *)(r2 + 0)
        r1 = *(u64 *)(r3 + 0)
        r5 += r1
        r1 = *(u64 *)(r4 + 0)
        r1 += r5
        *(u64 *)(r4 + 0) = r1
        r0 = 0
        exit
    """
    assert machine(text).run().r0 == 4 + (0 + 1 + 2 + 3) + 3


def test_tail_calls_replace_the_function_that_makes_them() -> None:
    second = Interpreter(assemble("r0 = *(u8 *)(r1 + 0)\nexit"))
    jumps = ReferenceMap(LinkedMap("jumps", 3, 4, 4, 2, values=((1, "second"),)), {"second": second})

    def run(index: int) -> int:
        text = f"r6 = r1\nr2 = map[idx:0] ll\nr3 = {index}\ncall bpf_tail_call\nr0 = 99\nexit"
        one = Interpreter(assemble(text), maps=[jumps], helpers=REFERENCE_HELPERS)
        memory = Allocation(1, b"\x2a")
        return one.run([memory.address], [(memory.address, 1, "context", False)]).r0

    assert (run(1), run(0)) == (42, 99)


def test_endless_tail_calls_end() -> None:
    text = "r2 = map[idx:0] ll\nr3 = 0\ncall bpf_tail_call\nr0 = 5\nexit"
    programs: dict[str, Interpreter] = {}
    jumps = ReferenceMap(LinkedMap("jumps", 3, 4, 4, 1))
    programs["self"] = Interpreter(assemble(text), maps=[jumps], helpers=REFERENCE_HELPERS)
    jumps.programs[0] = programs["self"]
    assert programs["self"].run([0]).r0 == 5
    assert programs["self"].tail_calls == 33


def test_ring_buffer_records() -> None:
    text = """
        r1 = map[events] ll
        r2 = 8
        r3 = 0
        call bpf_ringbuf_reserve
        if r0 == 0 goto end
        *(u64 *)(r0 + 0) = 7
        r1 = r0
        r2 = 0
        call bpf_ringbuf_submit
    end: r0 = 0
        exit
    """
    one = machine(text)
    one.run()
    events = one.maps[2]
    assert isinstance(events, ReferenceMap) and events.records == [(7).to_bytes(8, "little")]
    given_back = "r6 = r1\nr2 = 0\ncall bpf_ringbuf_submit\nr0 = *(u64 *)(r6 + 0)\nexit\nend: r0 = 0\nexit"
    assert "reads 8 bytes" in fault(text.partition("r2 = 0\n        call")[0] + given_back).reason


def test_probe_read_does_not_fault() -> None:
    text = (
        "r1 = r10\nr1 += -8\nr2 = 8\nr3 = {} ll\ncall bpf_probe_read_kernel\n"
        "r6 = r0\nr0 = *(u64 *)(r10 - 8)\nr0 += r6\nexit"
    )
    secret = ctypes.c_uint64(1234)
    assert machine(text.format(ctypes.addressof(secret))).run().r0 == 1234
    assert machine(text.format(8)).run().r0 == -14 & (1 << 64) - 1


def test_uninitialised_registers_may_be_zero() -> None:
    assert machine("r0 = r7\nexit", zeroed=True).run().r0 == 0


def test_trace() -> None:
    outcome = machine("r0 = 5\nif r0 == 5 goto +1\nr0 = 6\nexit", trace=True).run()
    assert outcome.steps == 3
    frame = outcome.frame
    assert frame["slot"].tolist() == [0, 1, 3]
    assert frame["r0"].isna().tolist() == [True, False, False] and frame["r0"][2] == 5


def test_a_program_runs_again_from_the_start() -> None:
    one = machine("*(u64 *)(r10 - 8) = 1\nr0 = *(u64 *)(r10 - 16)\nexit")
    assert [one.run().r0, one.run().r0] == [0, 0]
