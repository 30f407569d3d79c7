from workbench.collectors.uprobe.abi import MEMORY, REGISTER, function_sources, register_offset
from workbench.collectors.uprobe.declarators import parse_signature
from workbench.collectors.uprobe.instructions import instruction_class
from workbench.collectors.uprobe.types import CType, Parameter, Signature


def test_integers_come_from_registers_then_from_the_stack():
    found = function_sources(parse_signature("(" + ",".join(["int"] * 10) + ")"), "x86_64")
    assert [s.source for s in found] == [REGISTER] * 6 + [MEMORY] * 4
    assert [s.offset for s in found[6:]] == [8, 16, 24, 32]
    arm = function_sources(parse_signature("(" + ",".join(["int"] * 10) + ")"), "aarch64")
    assert [s.base for s in arm[:8]] == [8 * i for i in range(8)] and [
        s.offset for s in arm[8:]
    ] == [0, 8]


def test_floating_point_takes_no_general_register():
    found = function_sources(parse_signature("(double d, int a, float f, char *text)"), "x86_64")
    assert isinstance(found[0], str) and isinstance(found[2], str)
    assert found[1].base == register_offset("di", "x86_64") and found[3].base == register_offset(
        "si", "x86_64"
    )


def test_long_double_is_aligned_on_the_stack():
    found = function_sources(
        parse_signature("(" + ",".join(["long"] * 7) + ", long double x, long y)"), "x86_64"
    )
    assert found[6].offset == 8 and found[8].offset == 8 + 32


def test_a_large_result_shifts_the_registers():
    big = CType("aggregate", 24, False, "struct big")
    found = function_sources(
        Signature((Parameter("x", CType("integer", 4, True, "int")),), big), "x86_64"
    )
    assert found[0].base == register_offset("si", "x86_64")


def test_what_follows_a_small_struct_is_not_guessed():
    small, number = CType("aggregate", 8, False, "struct s"), CType("integer", 4, True, "int")
    found = function_sources(
        Signature((Parameter("a", number), Parameter("s", small), Parameter("b", number))), "x86_64"
    )
    assert not isinstance(found[0], str) and isinstance(found[1], str) and isinstance(found[2], str)


def test_classes_of_first_instructions():
    def of(text, machine="x86_64"):
        return instruction_class(bytes.fromhex(text), machine)

    assert of("0f1f440000c3") == ("nop5", "")
    assert (
        of("55") == ("emulated", "")
        and of("4155") == ("emulated", "")
        and of("90") == ("emulated", "")
    )
    assert of("e800000000") == ("emulated", "") and of("0f8400000000") == ("emulated", "")
    assert of("f30f1efa") == ("single-step", "") and of("488d3d00000000") == ("single-step", "")
    assert of("f0ff07")[1] and of("cc")[1] and of("f4")[1] and of("3effe0")[1] and of("")[1]
    # vpbroadcastb %esi,%ymm17; vpcmpeqd; vzeroupper; vpor; the same opcodes of other maps are no danger
    assert all("mistakes" in of(one)[1] for one in ("62e27d287ace", "c5f976c0", "c5f877", "c5f9ebc8"))
    assert "input" in of("c5f96ec6")[1]  # vmovd %esi,%xmm0: the kernel refuses it
    assert of("c5f857c0") == ("single-step", "") and of("c4e279184704") == ("single-step", "")
    assert of("8f00") == ("single-step", "") and of("c5f9") == ("single-step", "")
    assert of("1f2003d5", "aarch64")[0] == "emulated" and of("c0035fd6", "aarch64")[0] == "emulated"
    assert (
        of("fd7bbfa9", "aarch64")[0] == "single-step"
        and of("3f2303d5", "aarch64")[0] == "single-step"
    )
