"""The kernel as oracle: raw instructions with maps by index, what it refuses and why, what a run leaves."""

from __future__ import annotations

import pytest

from workbench.errors import VerifierRejected, WorkbenchError
from workbench.kernel.raw_program import KernelMap, KernelProgram, last_words
from workbench.objects.linked import Function, LinkedMap
from workbench.runtime.isa import assemble

pytestmark = pytest.mark.needs("raw tracepoint")  # any row that loads programs

PACKET = bytes(range(64))


def test_result_packet_and_maps() -> None:
    counts, table = KernelMap(LinkedMap("counts", 2, 4, 8, 2)), KernelMap(LinkedMap("table", 1, 4, 8, 4))
    text = """
        r6 = *(u32 *)(r1 + 0)
        r2 = *(u32 *)(r1 + 4)
        r3 = r6
        r3 += 8
        if r3 > r2 goto out
        *(u8 *)(r6 + 1) = 0xff
        r1 = map[counts][0]+8 ll
        r2 = 5
        lock *(u64 *)(r1 + 0) += r2
        *(u32 *)(r10 - 4) = 7
        *(u64 *)(r10 - 16) = 9
        r1 = map[table] ll
        r2 = r10
        r2 += -4
        r3 = r10
        r3 += -16
        r4 = 0
        call bpf_map_update_elem
        r0 = *(u8 *)(r6 + 0)
        r0 += 42
        exit
    out: r0 = 0
        exit
    """
    # the second element of an array is no direct value: offset 8 is refused, so one element of 16 bytes
    with pytest.raises(VerifierRejected):
        KernelProgram(assemble(text, maps=("counts", "table")), "xdp", [counts, table])
    counts.close()
    counts = KernelMap(LinkedMap("counts", 2, 4, 16, 1))
    with KernelProgram(assemble(text, maps=("counts", "table")), "xdp", [counts, table]) as loaded:
        result, packet = loaded.run(PACKET)
    assert result == 42 and packet == PACKET[:1] + b"\xff" + PACKET[2:]
    assert counts.content == {bytes(4): bytes(8) + (5).to_bytes(8, "little")}
    assert table.content == {(7).to_bytes(4, "little"): (9).to_bytes(8, "little")}
    counts.close()
    table.close()


def test_read_only_content() -> None:
    rodata = KernelMap(LinkedMap(".rodata", 2, 4, 8, 1, flags=0, initial=b"\x21", read_only=True))
    text = "r1 = map[.rodata][0]+0 ll\nr0 = *(u8 *)(r1 + 0)\nexit"
    with KernelProgram(assemble(text, maps=(".rodata",)), "xdp", [rodata]) as loaded:
        assert loaded.run(PACKET)[0] == 0x21
    write = "r1 = map[.rodata][0]+0 ll\n*(u8 *)(r1 + 0) = 1\nr0 = 0\nexit"
    with pytest.raises(VerifierRejected, match="write into map forbidden"):
        KernelProgram(assemble(write, maps=(".rodata",)), "xdp", [rodata])
    rodata.close()


def test_callbacks_have_their_types() -> None:
    text = "r1 = 4\nr2 = subprog[f] ll\nr3 = 0\nr4 = 0\ncall bpf_loop\nexit\nf: r0 = 0\nexit"
    code = assemble(text)
    with KernelProgram(code, "xdp", functions=[Function("main", 0, 7), Function("f", 7, 2)]) as loaded:
        assert loaded.run(PACKET)[0] == 4
    with pytest.raises(VerifierRejected, match="missing btf func_info"):
        KernelProgram(code, "xdp")


def test_the_reason_of_a_refusal() -> None:
    with pytest.raises(VerifierRejected) as caught:
        KernelProgram(assemble("r0 = r3\nexit"))
    assert caught.value.message == "R3 !read_ok" and "0: (bf) r0 = r3" in caught.value.log
    assert last_words("") == ""


def test_a_packet_that_xdp_does_not_take() -> None:
    with (
        KernelProgram(assemble("r0 = 0\nexit")) as loaded,
        pytest.raises(WorkbenchError, match="BPF_PROG_TEST_RUN"),
    ):
        loaded.run(b"short")
