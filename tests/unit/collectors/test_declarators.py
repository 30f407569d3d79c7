import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.collectors.uprobe.declarators import parse_signature, parse_type
from workbench.errors import BadSpec


def shape(text):
    return [
        (p.name, p.type.kind, p.type.size, p.type.signed) for p in parse_signature(text).parameters
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("()", []),
        ("(void)", []),
        ("(size_t size)", [("size", "integer", 8, False)]),
        ("(const char *sql, int n)", [("sql", "string", 8, False), ("n", "integer", 4, True)]),
        ("(char const * const s)", [("s", "string", 8, False)]),
        ("(unsigned long long a, unsigned char b)", [("a", "integer", 8, False), ("b", "char", 1, False)]),
        ("(long unsigned int a, short)", [("a", "integer", 8, False), ("", "integer", 2, True)]),
        ("(struct point p, struct point *q)", [("p", "aggregate", 8, False), ("q", "pointer", 8, False)]),
        ("(enum color c, bool b, _Bool d)",
         [("c", "enum", 4, False), ("b", "bool", 1, False), ("d", "bool", 1, False)]),
        ("(int (*compare)(const void *, const void *), int v[10])",
         [("compare", "pointer", 8, False), ("v", "pointer", 8, False)]),
        ("(char **argv, char name[16])", [("argv", "pointer", 8, False), ("name", "string", 8, False)]),
        ("(sqlite3 *db, uint8_t x, int16_t y)",
         [("db", "pointer", 8, False), ("x", "integer", 1, False), ("y", "integer", 2, True)]),
        ("(double d, float f, long double l)",
         [("d", "float", 8, True), ("f", "float", 4, True), ("l", "float", 16, True)]),
        ("(std::string &s)", [("s", "pointer", 8, False)]),
    ],
)  # fmt: skip
def test_parameters(text, expected):
    assert shape(text) == expected


def test_results_and_variadic():
    found = parse_signature("(const char *format, ...)->int")
    assert found.variadic and found.result.size == 4 and found.result.signed
    assert parse_signature("(int)->void *").result.kind == "pointer"
    assert parse_signature("(int)").result is None
    assert parse_type("unsigned short").size == 2


@pytest.mark.parametrize(
    "text",
    ["(int", "int)", "(int a,)", "(int a, int a)", "(;)", "(void x)", "(signed unsigned int x)", "(short long x)",
     "(int a)->", "(int a) b", "(struct)", "(int f[3)", "(int (*f)(int)"],
)  # fmt: skip
def test_what_is_not_c_is_refused(text):
    with pytest.raises(BadSpec):
        parse_signature(text)


@given(st.text(alphabet="(),*[]&.:-> intchar_structvoid09ab", max_size=40))
def test_any_text_parses_or_is_refused(text):
    with contextlib.suppress(BadSpec):
        parse_signature(text)
