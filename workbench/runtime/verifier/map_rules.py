"""Which helper works on which map type (`check_map_func_compatibility` in kernel/bpf/verifier.c)."""

from __future__ import annotations

from typing import Final

from workbench.objects.linked import LinkedMap
from workbench.runtime.helpers.prototypes import Helper
from workbench.runtime.verifier.reject import Reject

__all__ = ("check_map", "is_map_of_maps", "type_name")

#: enum bpf_map_type.
TYPES: Final = (
    "unspec",
    "hash",
    "array",
    "prog_array",
    "perf_event_array",
    "percpu_hash",
    "percpu_array",
    "stack_trace",
    "cgroup_array",
    "lru_hash",
    "lru_percpu_hash",
    "lpm_trie",
    "array_of_maps",
    "hash_of_maps",
    "devmap",
    "sockmap",
    "cpumap",
    "xskmap",
    "sockhash",
    "cgroup_storage",
    "reuseport_sockarray",
    "percpu_cgroup_storage",
    "queue",
    "stack",
    "sk_storage",
    "devmap_hash",
    "struct_ops",
    "ringbuf",
    "inode_storage",
    "task_storage",
    "bloom_filter",
    "user_ringbuf",
    "cgrp_storage",
    "arena",
    "insn_array",
)
_PLAIN: Final = frozenset(
    {"hash", "array", "percpu_hash", "percpu_array", "lru_hash", "lru_percpu_hash", "lpm_trie"}
)
_NESTED: Final = frozenset({"array_of_maps", "hash_of_maps"})
_RINGS: Final = frozenset(
    {
        "ringbuf_output",
        "ringbuf_reserve",
        "ringbuf_query",
        "ringbuf_reserve_dynptr",
    }
)
#: helper (without bpf_) -> map types that it works on.
_ALLOWED: Final = {
    "map_lookup_elem": _PLAIN | _NESTED | {"sockmap", "sockhash", "xskmap"},
    "map_update_elem": _PLAIN | {"sockmap", "sockhash"},
    "map_delete_elem": _PLAIN | {"sockmap", "sockhash"},
    "map_lookup_percpu_elem": frozenset({"percpu_array", "percpu_hash", "lru_percpu_hash"}),
    "map_push_elem": frozenset({"queue", "stack", "bloom_filter"}),
    "map_pop_elem": frozenset({"queue", "stack"}),
    "map_peek_elem": frozenset({"queue", "stack", "bloom_filter"}),
    "tail_call": frozenset({"prog_array"}),
    "perf_event_output": frozenset({"perf_event_array"}),
    "perf_event_read": frozenset({"perf_event_array"}),
    "perf_event_read_value": frozenset({"perf_event_array"}),
    "get_stackid": frozenset({"stack_trace"}),
    "current_task_under_cgroup": frozenset({"cgroup_array"}),
    "redirect_map": frozenset({"devmap", "devmap_hash", "cpumap", "xskmap"}),
    "user_ringbuf_drain": frozenset({"user_ringbuf"}),
    "for_each_map_elem": frozenset(
        {"hash", "array", "percpu_hash", "percpu_array", "lru_hash", "lru_percpu_hash"}
    ),
    "task_storage_get": frozenset({"task_storage"}),
    "task_storage_delete": frozenset({"task_storage"}),
    "timer_init": _PLAIN,
    **dict.fromkeys(_RINGS, frozenset({"ringbuf"})),
}


def type_name(number: int) -> str:
    """Name of a map type."""
    return TYPES[number] if 0 <= number < len(TYPES) else f"type {number}"


def is_map_of_maps(one: LinkedMap) -> bool:
    """Values are maps."""
    return type_name(one.type) in _NESTED


def check_map(helper: Helper, one: LinkedMap, register: int = 1) -> None:
    """Refuse a helper that does not work on a map of this type."""
    kind = type_name(one.type)
    allowed = _ALLOWED.get(helper.name.removeprefix("bpf_"))
    if allowed is None or kind not in allowed:
        fit = ", ".join(sorted(allowed)) if allowed else "no map type known here"
        raise Reject(
            f"{helper.name} does not work on map {one.name} of type {kind}",
            register,
            f"it works on: {fit}",
        )
    if one.flags & 1 << 7 and helper.name in (
        "bpf_map_update_elem",
        "bpf_map_delete_elem",
        "bpf_map_push_elem",
    ):
        raise Reject(f"map {one.name} is read-only for programs", register)
    if one.read_only and helper.name in ("bpf_map_update_elem", "bpf_map_delete_elem"):
        raise Reject(f"map {one.name} is read-only for programs", register)
    if one.flags & 1 << 8 and helper.name in (
        "bpf_map_lookup_elem",
        "bpf_map_peek_elem",
        "bpf_map_pop_elem",
    ):
        raise Reject(f"map {one.name} is write-only for programs", register)
