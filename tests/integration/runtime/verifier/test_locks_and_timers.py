"""Spin locks and timers are found by BTF: only their helpers touch them, a lock is held alone and let go."""

from __future__ import annotations

import pytest

from workbench.errors import VerifierRejected
from workbench.objects.compile import compile_file
from workbench.objects.link import link
from workbench.objects.linked import LinkedObject
from workbench.objects.model import open as open_object
from workbench.runtime.verifier import verify

_LOOKUP = "__u32 zero = 0; struct value *v = bpf_map_lookup_elem(&values, &zero); if (!v) return 0;"
_SOURCE = f"""
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct value {{ struct bpf_spin_lock lock; int n; struct bpf_timer timer; }};
struct {{ __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1);
         __type(key, __u32); __type(value, struct value); }} values SEC(".maps");
static int fires(void *map, int *key, struct value *v) {{ bpf_timer_start(&v->timer, 1000, 0); return 0; }}
static int returns_one(void *map, int *key, struct value *v) {{ return 1; }}
SEC("tc") int locks(void *ctx) {{ {_LOOKUP} bpf_spin_lock(&v->lock); v->n++; bpf_spin_unlock(&v->lock); return 0; }}
SEC("tc") int timer(void *ctx) {{ {_LOOKUP} bpf_timer_init(&v->timer, &values, 1);
    bpf_timer_set_callback(&v->timer, fires); return bpf_timer_start(&v->timer, 1000, 0); }}
SEC("tc") int timer_result(void *ctx) {{ {_LOOKUP} return bpf_timer_set_callback(&v->timer, returns_one); }}
SEC("tc") int held(void *ctx) {{ {_LOOKUP} bpf_spin_lock(&v->lock); v->n++; return 0; }}
SEC("tc") int helper(void *ctx) {{ {_LOOKUP} bpf_spin_lock(&v->lock); v->n += bpf_get_prandom_u32();
    bpf_spin_unlock(&v->lock); return 0; }}
SEC("tc") int touches(void *ctx) {{ {_LOOKUP} *(volatile int *)&v->lock = 1; return 0; }}
SEC("tc") int another(void *ctx) {{ {_LOOKUP} struct value *w = bpf_map_lookup_elem(&values, &zero); if (!w) return 0;
    bpf_spin_lock(&v->lock); bpf_spin_unlock(&w->lock); return 0; }}
SEC("tc") int twice(void *ctx) {{ {_LOOKUP} bpf_spin_lock(&v->lock); bpf_spin_lock(&v->lock);
    bpf_spin_unlock(&v->lock); return 0; }}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> LinkedObject:
    source = tmp_path_factory.mktemp("locks") / "locks.bpf.c"
    source.write_text(_SOURCE)
    obj = open_object(compile_file(source))
    return link(obj, btf=obj.btf)


@pytest.mark.needs("clang")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("locks", None),
        ("timer", None),
        ("timer_result", "may return 0 to 0"),
        ("held", "ends while a spin lock is held"),
        ("helper", "called while a spin lock is held"),
        ("touches", "is touched directly"),
        ("another", "another spin lock is held"),
        ("twice", "a second spin lock"),
    ],
)
def test_locks_and_timers(linked: LinkedObject, name: str, reason: str | None) -> None:
    if reason is None:
        verify(linked.programs[name], linked)
        return
    with pytest.raises(VerifierRejected, match=reason) as refused:
        verify(linked.programs[name], linked)
    assert "locks.bpf.c:" in refused.value.line
