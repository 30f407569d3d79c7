"""The grammar of what to collect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.collectors.registry import COLLECTORS, make, summary
from workbench.collectors.spec import Spec, parse
from workbench.errors import BadSpec


@pytest.mark.parametrize(
    "text, name, argument, options",
    [
        ("cpu", "cpu", "", {}),
        ("cpu:999", "cpu", "999", {}),
        ("cpu,stacks=fp", "cpu", "", {"stacks": "fp"}),
        (" cpu:99 , kernel = no ", "cpu", "99", {"kernel": "no"}),
        ("cpu:99,kernel", "cpu", "99", {"kernel": "yes"}),
        ("uprobe:libc:malloc", "uprobe", "libc:malloc", {}),
        (
            "uprobe:libc:f(int a, struct pair<int, char> b)->void*,stacks=yes",
            "uprobe",
            "libc:f(int a, struct pair<int, char> b)->void*",
            {"stacks": "yes"},
        ),
        ("watch:table[i, 3],hits=5", "watch", "table[i, 3]", {"hits": "5"}),
        ("x:a=b,c=d=e", "x", "a=b", {"c": "d=e"}),
    ],
)
def test_parse(text: str, name: str, argument: str, options: dict[str, str]) -> None:
    spec = parse(text)
    assert (spec.name, spec.argument, spec.options) == (name, argument, options)
    assert parse(str(spec)) == spec


@pytest.mark.parametrize("text", ["", ":99", "cpu:99,", "cpu:99,=3", "cpu,a=1,a=2", "c pu", "cpu:1,2 x=3"])
def test_refused(text: str) -> None:
    with pytest.raises(BadSpec) as error:
        parse(text)
    assert error.value.hint


words = st.text(st.characters(codec="ascii", exclude_characters=",()[]{}<>="), min_size=1).map(str.strip)


@given(
    st.sampled_from([*COLLECTORS]),
    words.filter(bool),
    st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), words, max_size=3),
)
def test_what_is_written_is_what_is_read(
    name: str, argument: str, options: dict[str, str]
) -> None:
    spec = Spec(name, argument, options)
    assert parse(str(spec)) == spec


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        spec = parse(text)
    except BadSpec as error:
        assert error.message
    else:
        assert spec.name and spec.name == spec.name.strip()


def test_numbers() -> None:
    spec = parse("x:0x10,a=4K,b=2m,c=1.5,d=on,e=off")
    assert spec.argument_integer(1) == 16
    assert (spec.integer("a", 0), spec.integer("b", 0)) == (4096, 2 << 20)
    assert spec.number("c", 0.0) == 1.5
    assert spec.flag("d") is True and spec.flag("e", True) is False and spec.flag("f") is False
    spec.done()
    for key, bad in (("a", "4Q"), ("a", "K"), ("a", ""), ("c", "one"), ("d", "maybe")):
        with pytest.raises(BadSpec) as error:
            made = parse(f"x,{key}={bad}")
            {"a": made.integer, "c": made.number, "d": made.flag}[key](key, 1)
        assert error.value.hint
    with pytest.raises(BadSpec, match="-1 is outside 0 or more"):
        parse("x,a=-1").integer("a", 5, 0)
    with pytest.raises(BadSpec, match="nan"):
        parse("x,a=nan").number("a", 5, 0)


def test_every_collector_says_how_it_is_used() -> None:
    for name, text, usage in summary():
        assert text and name in usage
    assert {name for name, *_ in summary()} == set(COLLECTORS)


@pytest.mark.parametrize("name", ["cpu", "sched", "syscalls", "pages"])
def test_options_are_checked_before_anything_is_touched(name: str) -> None:
    assert make(name).name == name
    with pytest.raises(BadSpec, match="no option 'nonsense'") as error:
        make(f"{name},nonsense=1")
    assert error.value.hint.startswith(f"options of {name}: ")
