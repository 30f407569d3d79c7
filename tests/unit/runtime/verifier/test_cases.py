"""Every case of `verifier_cases` gets its verdict, and a refusal says where, why and how it came there."""

from __future__ import annotations

import pytest
from verifier_cases import CASES, Case

from workbench.errors import MissingCapability, VerifierRejected
from workbench.objects.linked import Line, LinkedObject, LinkedProgram
from workbench.runtime.isa import assemble
from workbench.runtime.lower import SK_BUFF_NATIVE, lower
from workbench.runtime.program_types import memory_context
from workbench.runtime.verifier import kinds, verify

_BUDGET = 2_000  # small, so that the loop without a bound is joined soon


def _case(name: str) -> Case:
    return next(case for case in CASES if case.id == name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_verdict(case: Case) -> None:
    if case.reason is None:
        verify(case.program(), case.object(), budget=_BUDGET)
        return
    with pytest.raises(VerifierRejected) as refused:
        verify(case.program(), case.object(), budget=_BUDGET)
    assert case.reason in refused.value.reason
    assert refused.value.message.startswith("the verifier refuses program main: ")
    assert 0 <= refused.value.instruction < len(case.program().code) // 8 + 8


def test_case_names_are_unique() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


def test_a_refusal_explains_itself() -> None:
    code = assemble(
        "call 7\nif r0 == 0 goto a\nif r0 == 1 goto b\nr6 = 1\na: r1 = 1\nb: r0 = r6\nexit"
    )
    lines = (Line(0, "x.bpf.c", 10, 1, "if (!random())"), Line(5, "x.bpf.c", 14, 1, "return six;"))
    program = LinkedProgram("main", "socket", "socket_filter", code, (), lines)
    with pytest.raises(VerifierRejected) as refused:
        verify(program, LinkedObject("x", "GPL", {}, (), {}))
    error = refused.value
    assert error.reason == "r6 was never written"
    assert error.instruction == 5
    assert error.line == "x.bpf.c:14: return six;"
    assert "r0 = r6" in error.message and "x.bpf.c:14" in error.message
    assert error.registers["r10"].startswith("stack of frame 0")
    # Of the two failing ways the one with fewer instructions is told.
    assert error.path in (
        ("1: r0 == 0x0 is true   (x.bpf.c:10: if (!random()))",),
        (
            "1: r0 == 0x0 is false   (x.bpf.c:10: if (!random()))",
            "2: r0 == 0x1 is true   (x.bpf.c:10: if (!random()))",
        ),
    )
    assert "every instruction on the way:" in error.log


def test_the_shortest_way_is_told() -> None:
    text = "call 7\nif r0 == 7 goto c\n" + "r1 = 1\n" * 20 + "c: r0 = r9\nexit"
    with pytest.raises(VerifierRejected) as refused:
        verify(
            LinkedProgram("main", "socket", "socket_filter", assemble(text), ()),
            LinkedObject("x", "GPL", {}, (), {}),
        )
    assert refused.value.path == ("1: r0 == 0x7 is true",)


def test_loop_without_a_bound_is_left_to_the_budget() -> None:
    case = _case("loops: longer than the budget")
    verdict = verify(case.program(), case.object(), budget=_BUDGET)
    assert verdict.widened
    assert verdict.unbounded == {4}
    with pytest.raises(VerifierRejected, match="takes more than"):
        verify(case.program(), case.object(), budget=_BUDGET, allow_unbounded=False)


def test_bounded_loops_need_no_budget() -> None:
    case = _case("loops: over an array")
    verdict = verify(case.program(), case.object())
    assert not verdict.widened
    assert not verdict.unbounded


def test_kinds_and_offsets() -> None:
    case = _case("bounds: a masked index")
    verdict = verify(case.program(), case.object())
    code = case.program().code
    assert verdict.kinds.shape == (len(code) // 8, 11)
    assert verdict.kinds[0, 1] == kinds.CONTEXT
    assert (verdict.kinds[0, [0, 2, 3, 9]] == kinds.DEAD).all()
    assert verdict.kinds[2, 2] == kinds.STACK and verdict.offsets[2, 2] == 0
    assert verdict.kinds[3, 2] == kinds.STACK and verdict.offsets[3, 2] == -4
    assert verdict.kinds[5, 1] == kinds.MAP
    assert verdict.kinds[6, 0] == kinds.NULLABLE
    last = len(code) // 8 - 4
    assert verdict.kinds[last, 6] == kinds.MAP_VALUE
    assert verdict.offsets[last, 6] == kinds.UNKNOWN_OFFSET
    assert verdict.stack_depth == 16


def test_frame_has_a_row_per_instruction() -> None:
    case = _case("bounds: a masked index")
    frame = verify(case.program(), case.object()).frame
    assert list(frame.columns) == [
        "slot", "function", "text", "line", "source", "visits", *[f"r{i}" for i in range(11)], "stack",
    ]  # fmt: skip
    assert frame["visits"].min() >= 1
    row = frame.set_index("slot").loc[6]
    assert row["r0"] == f"value of {case.object().maps[0].name} or null"
    assert row["stack"] == "-8: [????zzzz]"


def test_pointer_leaks_may_be_allowed() -> None:
    case = _case("pointers: an address in a map")
    verify(case.program(), case.object(), allow_pointer_leaks=True)


def test_plain_memory_context() -> None:
    objects = LinkedObject("x", "GPL", {}, (), {})
    program = LinkedProgram(
        "main", "", "raw", assemble("r0 = *(u64 *)(r1 + 8)\nr0 += r2\nexit"), ()
    )
    verify(program, objects, context=memory_context(16))
    with pytest.raises(VerifierRejected, match="has 15 bytes"):
        verify(program, objects, context=memory_context(15))


def test_unknown_program_type_names_the_other_backend() -> None:
    program = LinkedProgram("main", "sockops", "sock_ops", assemble("r0 = 0\nexit"), ())
    with pytest.raises(MissingCapability, match="sock_ops") as missing:
        verify(program, LinkedObject("x", "GPL", {}, (), {}))
    assert "kernel backend" in missing.value.hint


def test_lowering_rewrites_context_accesses_only() -> None:
    text = (
        "r2 = *(u32 *)(r1 + 0)\nr3 = *(u32 *)(r1 + 4)\nr4 = r2\nr4 += 8\nif r4 > r3 goto out\n"
        "r0 = *(u32 *)(r2 + 4)\nr5 = *(u32 *)(r1 + 12)\nout: r0 = 0\nexit"
    )
    program = LinkedProgram("main", "xdp", "xdp", assemble(text), ())
    lowered = lower(program, verify(program, LinkedObject("x", "GPL", {}, (), {})))
    wanted = text.replace("*(u32 *)(r1 + 0)", "*(u64 *)(r1 + 0)").replace(
        "*(u32 *)(r1 + 4)", "*(u64 *)(r1 + 8)"
    )
    assert lowered.code == assemble(wanted.replace("(r1 + 12)", "(r1 + 24)"))
    skb = LinkedProgram(
        "main", "socket", "socket_filter", assemble("r0 = *(u8 *)(r1 + 17)\nexit"), ()
    )
    lowered = lower(skb, verify(skb, LinkedObject("x", "GPL", {}, (), {})))
    assert lowered.code == assemble(f"r0 = *(u8 *)(r1 + {SK_BUFF_NATIVE['protocol'] + 1})\nexit")


@pytest.mark.parametrize(
    ("type", "text", "reason"),
    [
        ("kprobe", "r0 = *(u64 *)(r1 + 0)\nexit", None),
        ("kprobe", "*(u64 *)(r1 + 0) = 1\nr0 = 0\nexit", "may not be written"),
        ("kprobe", "r0 = *(u64 *)(r1 + 272)\nexit", "may not be read"),
        ("tracepoint", "r0 = *(u64 *)(r1 + 8)\nexit", None),
        ("tracepoint", "r0 = *(u64 *)(r1 + 0)\nexit", "may not be read"),
        ("raw_tracepoint", "r0 = *(u64 *)(r1 + 88)\nexit", None),
        ("raw_tracepoint", "r0 = *(u64 *)(r1 + 96)\nexit", "may not be read"),
        ("tracing", "r1 = *(u64 *)(r1 + 0)\nr1 = *(u64 *)(r1 + 64)\nr1 = *(u32 *)(r1 + 8)\nr0 = 0\nexit", None),
        ("tracing", "r1 = *(u64 *)(r1 + 0)\n*(u64 *)(r1 + 0) = 1\nr0 = 0\nexit", "read-only"),
        ("tracing", "r0 = 1\nexit", "may return"),
        ("syscall", "*(u64 *)(r1 + 8) = 1\nr0 = 0\nexit", None),
        ("sched_cls", "r2 = *(u32 *)(r1 + 76)\nr0 = 0\nexit", None),
    ],
)  # fmt: skip
def test_contexts(type: str, text: str, reason: str | None) -> None:
    program = LinkedProgram("main", type, type, assemble(text), ())
    objects = LinkedObject("x", "GPL", {}, (), {})
    if reason is None:
        verify(program, objects)
    else:
        with pytest.raises(VerifierRejected, match=reason):
            verify(program, objects)


def test_gpl_helpers_need_the_licence() -> None:
    program = LinkedProgram("main", "kprobe", "kprobe", assemble("call 35\nr0 = 0\nexit"), ())
    with pytest.raises(VerifierRejected, match="GPL"):
        verify(program, LinkedObject("x", "Proprietary", {}, (), {}))
    verify(program, LinkedObject("x", "GPL", {}, (), {}))


def test_a_map_that_does_not_exist_is_refused_where_no_path_comes_by_too() -> None:
    code = assemble(
        "r6 = 1\nif r6 == 1 goto out\nr1 = map[only] ll\nout: r0 = 0\nexit", maps=["only"]
    )
    program = LinkedProgram("main", "socket", "socket_filter", code, ())
    with pytest.raises(VerifierRejected, match="there is no map 0") as refused:
        verify(program, LinkedObject("x", "GPL", {}, (), {}))
    assert refused.value.instruction == 2
