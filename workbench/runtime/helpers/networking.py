"""Prototypes of the helpers for packets (net/core/filter.c); of those user space has only the checksum."""

from __future__ import annotations

from workbench.runtime.helpers.generic import helper
from workbench.runtime.helpers.model import SKB, Argument, Helper, Result

__all__ = ("NETWORKING",)

A = Argument
R = Result
XDP = frozenset({"xdp"})
CLASSIFIER = frozenset({"sched_cls", "sched_act"})
LWT = frozenset({"lwt_in", "lwt_out", "lwt_xmit"})
COOKIES = (SKB - LWT) | frozenset({"sock_ops", "sk_reuseport", "cgroup_sock", "cgroup_sock_addr"})
LOOKUP = CLASSIFIER | frozenset({"xdp", "sk_skb", "cgroup_skb", "cgroup_sock_addr"})

NETWORKING: tuple[Helper, ...] = (
    helper(
        9,
        "skb_store_bytes",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        A.MEMORY,
        A.CONST_SIZE,
        A.ANYTHING,
        types=CLASSIFIER | {"lwt_xmit", "sk_skb"},
        changes_packet=True,
    ),
    helper(
        10,
        "l3_csum_replace",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        A.ANYTHING,
        A.ANYTHING,
        A.ANYTHING,
        types=CLASSIFIER | {"lwt_xmit"},
        changes_packet=True,
    ),
    helper(
        11,
        "l4_csum_replace",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        A.ANYTHING,
        A.ANYTHING,
        A.ANYTHING,
        types=CLASSIFIER | {"lwt_xmit"},
        changes_packet=True,
    ),
    helper(
        13,
        "clone_redirect",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        A.ANYTHING,
        types=CLASSIFIER | {"lwt_xmit"},
        changes_packet=True,
    ),
    helper(
        18,
        "skb_vlan_push",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        A.ANYTHING,
        types=CLASSIFIER,
        changes_packet=True,
    ),
    helper(19, "skb_vlan_pop", R.INTEGER, A.CONTEXT, types=CLASSIFIER, changes_packet=True),
    helper(
        23, "redirect", R.INTEGER, A.ANYTHING, A.ANYTHING, types=CLASSIFIER | XDP | {"lwt_xmit"}
    ),
    helper(
        26,
        "skb_load_bytes",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        A.UNINIT_MEMORY,
        A.CONST_SIZE,
        types=SKB | {"flow_dissector", "sk_reuseport"},
    ),
    helper(
        28,
        "csum_diff",
        R.INTEGER,
        A.MEMORY_OR_NULL,
        A.CONST_SIZE_OR_ZERO,
        A.MEMORY_OR_NULL,
        A.CONST_SIZE_OR_ZERO,
        A.ANYTHING,
        packet=True,
        types=CLASSIFIER | XDP | {"lwt_in", "lwt_out", "lwt_xmit"},
    ),
    helper(31, "skb_change_proto", R.INTEGER, A.CONTEXT, A.ANYTHING, A.ANYTHING, types=CLASSIFIER),
    helper(32, "skb_change_type", R.INTEGER, A.CONTEXT, A.ANYTHING, types=CLASSIFIER),
    helper(34, "get_hash_recalc", R.INTEGER, A.CONTEXT, types=CLASSIFIER | LWT),
    helper(
        38,
        "skb_change_tail",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        A.ANYTHING,
        types=CLASSIFIER | {"lwt_xmit", "sk_skb"},
        changes_packet=True,
    ),
    helper(
        39,
        "skb_pull_data",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        types=SKB - {"socket_filter", "cgroup_skb"},
        changes_packet=True,
    ),
    helper(40, "csum_update", R.INTEGER, A.CONTEXT, A.ANYTHING, types=CLASSIFIER | {"lwt_xmit"}),
    helper(
        43,
        "skb_change_head",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        A.ANYTHING,
        types=CLASSIFIER | {"lwt_xmit", "sk_skb"},
        changes_packet=True,
    ),
    helper(44, "xdp_adjust_head", R.INTEGER, A.CONTEXT, A.ANYTHING, types=XDP, changes_packet=True),
    helper(46, "get_socket_cookie", R.INTEGER, A.CONTEXT, types=COOKIES),
    helper(47, "get_socket_uid", R.INTEGER, A.CONTEXT, types=SKB - LWT),
    helper(
        50,
        "skb_adjust_room",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        A.ANYTHING,
        A.ANYTHING,
        types=CLASSIFIER | {"sk_skb"},
        changes_packet=True,
    ),
    helper(51, "redirect_map", R.INTEGER, A.CONST_MAP, A.ANYTHING, A.ANYTHING, types=XDP),
    helper(54, "xdp_adjust_meta", R.INTEGER, A.CONTEXT, A.ANYTHING, types=XDP, changes_packet=True),
    helper(65, "xdp_adjust_tail", R.INTEGER, A.CONTEXT, A.ANYTHING, types=XDP, changes_packet=True),
    helper(
        68,
        "skb_load_bytes_relative",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        A.UNINIT_MEMORY,
        A.CONST_SIZE,
        A.ANYTHING,
        types=CLASSIFIER | {"socket_filter", "cgroup_skb", "sk_reuseport"},
    ),
    helper(
        69,
        "fib_lookup",
        R.INTEGER,
        A.CONTEXT,
        A.MEMORY,
        A.CONST_SIZE,
        A.ANYTHING,
        types=CLASSIFIER | XDP,
        gpl_only=True,
    ),
    *(
        helper(
            number,
            name,
            R.SOCKET_OR_NULL,
            A.CONTEXT,
            A.MEMORY,
            A.CONST_SIZE,
            A.ANYTHING,
            A.ANYTHING,
            types=LOOKUP,
            acquires=True,
            packet=True,
        )
        for number, name in ((84, "sk_lookup_tcp"), (85, "sk_lookup_udp"), (99, "skc_lookup_tcp"))
    ),
    helper(86, "sk_release", R.INTEGER, A.SOCKET, types=LOOKUP, releases=0),
    helper(
        95, "sk_fullsock", R.SOCKET_OR_NULL, A.SOCKET_OR_NULL, types=CLASSIFIER | {"cgroup_skb"}
    ),
    helper(188, "xdp_get_buff_len", R.INTEGER, A.CONTEXT, types=XDP),
    helper(
        189,
        "xdp_load_bytes",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        A.UNINIT_MEMORY,
        A.CONST_SIZE,
        types=XDP,
    ),
    helper(
        190,
        "xdp_store_bytes",
        R.INTEGER,
        A.CONTEXT,
        A.ANYTHING,
        A.UNINIT_MEMORY,
        A.CONST_SIZE,
        types=XDP,
    ),
)
