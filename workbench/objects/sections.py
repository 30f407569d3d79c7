"""Program types by ELF section name, as libbpf reads them (tools/lib/bpf/libbpf.c, `section_defs`)."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache

from workbench.objects.elf import BadElf

__all__ = ("SectionKind", "section_kind")


@dataclass(frozen=True, slots=True)
class SectionKind:
    """What a section name says about its programs.

    Attributes
    ----------
    prefix : str
        The part that names the kind (`uprobe.multi.s`).
    target : str
        What follows it after a slash (`libc.so.6:malloc`); empty without one.
    type : str
        Program type in libbpf's words.
    attach_type : str
        Expected attach type without BPF_, in lower case (`trace_uprobe_multi`); empty where there is none.
    sleepable : bool
        The program may take page faults.
    autoload : bool
        False for a section that begins with `?`: loaded only where it is asked for.
    """

    prefix: str
    target: str
    type: str
    attach_type: str = ""
    sleepable: bool = False
    autoload: bool = True


# Each row: names, program type, expected attach type. A name with a trailing + may be followed by /TARGET; all others
# must match exactly.
_TABLE = (
    ("socket", "socket_filter", ""),
    ("sk_reuseport/migrate", "sk_reuseport", "sk_reuseport_select_or_migrate"),
    ("sk_reuseport", "sk_reuseport", "sk_reuseport_select"),
    ("kprobe+ kretprobe+ uprobe+ uretprobe+ ksyscall+ kretsyscall+ usdt+", "kprobe", ""),
    ("kprobe.multi+ kretprobe.multi+", "kprobe", "trace_kprobe_multi"),
    ("kprobe.session+", "kprobe", "trace_kprobe_session"),
    ("uprobe.multi+ uretprobe.multi+", "kprobe", "trace_uprobe_multi"),
    ("uprobe.session+", "kprobe", "trace_uprobe_session"),
    ("tc/ingress tcx/ingress", "sched_cls", "tcx_ingress"),
    ("tc/egress tcx/egress", "sched_cls", "tcx_egress"),
    ("netkit/primary", "sched_cls", "netkit_primary"),
    ("netkit/peer", "sched_cls", "netkit_peer"),
    ("tc classifier", "sched_cls", ""),
    ("action", "sched_act", ""),
    ("tracepoint+ tp+", "tracepoint", ""),
    ("raw_tracepoint+ raw_tp+", "raw_tracepoint", ""),
    ("raw_tracepoint.w+ raw_tp.w+", "raw_tracepoint_writable", ""),
    ("tp_btf+", "tracing", "trace_raw_tp"),
    ("fentry+", "tracing", "trace_fentry"),
    ("fexit+", "tracing", "trace_fexit"),
    ("fsession+", "tracing", "trace_fsession"),
    ("fmod_ret+", "tracing", "modify_return"),
    ("iter+", "tracing", "trace_iter"),
    ("freplace+", "ext", ""),
    ("lsm+", "lsm", "lsm_mac"),
    ("lsm_cgroup+", "lsm", "lsm_cgroup"),
    ("syscall", "syscall", ""),
    ("xdp.frags/devmap xdp/devmap", "xdp", "xdp_devmap"),
    ("xdp.frags/cpumap xdp/cpumap", "xdp", "xdp_cpumap"),
    ("xdp.frags xdp", "xdp", "xdp"),
    ("perf_event", "perf_event", ""),
    ("lwt_in", "lwt_in", ""),
    ("lwt_out", "lwt_out", ""),
    ("lwt_xmit", "lwt_xmit", ""),
    ("lwt_seg6local", "lwt_seg6local", ""),
    ("sockops", "sock_ops", "cgroup_sock_ops"),
    ("sk_skb/stream_parser", "sk_skb", "sk_skb_stream_parser"),
    ("sk_skb/stream_verdict", "sk_skb", "sk_skb_stream_verdict"),
    ("sk_skb/verdict", "sk_skb", "sk_skb_verdict"),
    ("sk_skb", "sk_skb", ""),
    ("sk_msg", "sk_msg", "sk_msg_verdict"),
    ("lirc_mode2", "lirc_mode2", "lirc_mode2"),
    ("flow_dissector", "flow_dissector", "flow_dissector"),
    ("cgroup_skb/ingress", "cgroup_skb", "cgroup_inet_ingress"),
    ("cgroup_skb/egress", "cgroup_skb", "cgroup_inet_egress"),
    ("cgroup/skb", "cgroup_skb", ""),
    ("cgroup/sock_create cgroup/sock", "cgroup_sock", "cgroup_inet_sock_create"),
    ("cgroup/sock_release", "cgroup_sock", "cgroup_inet_sock_release"),
    ("cgroup/post_bind4", "cgroup_sock", "cgroup_inet4_post_bind"),
    ("cgroup/post_bind6", "cgroup_sock", "cgroup_inet6_post_bind"),
    ("cgroup/sysctl", "cgroup_sysctl", "cgroup_sysctl"),
    ("cgroup/getsockopt", "cgroup_sockopt", "cgroup_getsockopt"),
    ("cgroup/setsockopt", "cgroup_sockopt", "cgroup_setsockopt"),
    ("cgroup/dev", "cgroup_device", "cgroup_device"),
    ("struct_ops+", "struct_ops", ""),
    ("sk_lookup", "sk_lookup", "sk_lookup"),
    ("netfilter", "netfilter", "netfilter"),
)
_SLEEPABLE = (
    "uprobe.s", "uretprobe.s", "usdt.s", "uprobe.multi.s", "uretprobe.multi.s", "uprobe.session.s", "fentry.s",
    "fexit.s", "fsession.s", "fmod_ret.s", "lsm.s", "iter.s", "struct_ops.s",
)  # fmt: skip
_ADDRESS_HOOKS = {
    "bind": ("4", "6"),
    "connect": ("4", "6", "_unix"),
    "sendmsg": ("4", "6", "_unix"),
    "recvmsg": ("4", "6", "_unix"),
    "getpeername": ("4", "6", "_unix"),
    "getsockname": ("4", "6", "_unix"),
}


@cache
def _kinds() -> dict[str, tuple[str, str, bool, bool]]:
    """Section prefix -> (program type, attach type, sleepable, may have a target)."""
    found: dict[str, tuple[str, str, bool, bool]] = {}
    for names, kind, attach in _TABLE:
        for name in names.split():
            found[name.rstrip("+")] = (kind, attach, name == "syscall", name.endswith("+"))
    for prefix in _SLEEPABLE:
        kind, attach, _, _ = found[prefix.removesuffix(".s")]
        found[prefix] = (kind, attach, True, True)
    for call, families in _ADDRESS_HOOKS.items():
        for family in families:
            attach = f"cgroup_unix_{call}" if family == "_unix" else f"cgroup_inet{family}_{call}"
            if call in ("sendmsg", "recvmsg") and family != "_unix":
                attach = f"cgroup_udp{family}_{call}"
            found[f"cgroup/{call}{family}"] = ("cgroup_sock_addr", attach, False, False)
    return found


def section_kind(section: str) -> SectionKind:
    """Program type of an ELF section.

    Parameters
    ----------
    section : str
        For example `uprobe/libc.so.6:malloc`, `?tp/sched/sched_switch`.

    Raises
    ------
    BadElf
        No program type has such sections; the hint names near ones.
    """
    name = section.removeprefix("?")
    kinds = _kinds()
    prefix = name
    while prefix:
        if (kind := kinds.get(prefix)) and (kind[3] or prefix == name):
            break
        prefix = prefix.rpartition("/")[0]
    else:
        near = difflib.get_close_matches(name.split("/")[0], kinds, 4)
        raise BadElf(
            f"section {section!r} names no program type",
            f"near names: {', '.join(near)}" if near else "for example uprobe, usdt, tp/..., xdp",
        )
    return SectionKind(
        prefix, name[len(prefix) + 1 :], kind[0], kind[1], kind[2], not section.startswith("?")
    )
