"""Find reads of kernel structs in bcc C, which are wrong, silently, when the headers are of another kernel.

bcc compiles the offsets of its headers into the program; nothing relocates them. With headers of Linux 6.1 on a newer
kernel ``task->tgid`` reads some other field. The check here is on the text and prefers to refuse: a program passes
when every ``->`` starts at a pointer whose type it declares itself or that is stable (``ctx``, ``args``, map values),
kernel structs occur as plain pointers only, and every function it calls is known not to look inside them. Constants
of the headers (enums, macros) are not judged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ("KernelRead", "kernel_reads")

# Layouts that are user-space ABI or bcc's own, whatever the headers say.
_STABLE = """
    pt_regs bpf_perf_event_data bpf_raw_tracepoint_args bpf_perf_event_value bpf_spin_lock bpf_pidns_info
    __sk_buff xdp_md sk_msg_md bpf_sock bpf_sock_ops bpf_sock_addr bpf_tunnel_key bpf_fib_lookup
    ethernet_t dot1q_t arp_t ip_t ip6_t icmp_t tcp_t udp_t vxlan_t
"""
STABLE = frozenset(_STABLE.split())
# Types of the headers that are mere numbers.
NUMBERS = re.compile(
    r"u?int(8|16|32|64|ptr)_t|s?size_t|(pid|uid|gid|dev|ino|loff|off|mode|time|ktime|umode)_t|\w+_fn_t"
)
KEYWORDS = re.compile(r"if|for|while|switch|return|sizeof|do|else|case|goto|__attribute__|__asm__|asm")
# What may be called: helpers, bcc's macros and methods of its maps. All of them take pointers as mere addresses.
CALLABLE = re.compile(
    r"bpf_\w+|__builtin_\w+|PT_REGS_(PARM[1-6]|RET|FP|RC|SP|IP)|BPF_(?!CORE|PROBE_READ)[A-Z_0-9]+|BPF_F_\w+"
    r"|TRACEPOINT_PROBE|RAW_TRACEPOINT_PROBE|KFUNC_PROBE|KRETFUNC_PROBE|LSM_PROBE|MODULE_\w+|SEC"
    r"|TP_DATA_LOC_READ\w*|lock_xadd|load_(byte|half|word|dword)|cursor_advance|likely|unlikely|min|max|u?int\d+_t"
)
# A map method follows a map and a dot or, for values, nothing of ours: `counts.increment(key)`.
METHOD = re.compile(
    r"lookup|lookup_or_(try_)?init|delete|update|insert|increment|atomic_increment|perf_\w+|ringbuf_\w+|push|pop|peek"
    r"|get_stackid|call|redirect_map|check_current_task|sk_storage_\w+|task_storage_\w+|inode_storage_\w+|\w*_hash_update"
)


@dataclass(frozen=True, slots=True)
class KernelRead:
    """One place that may read a kernel struct.

    Parameters
    ----------
    line : int
        Line of the program, from 1.
    text : str
        The expression, as far as it was recognised.
    why : str
        Which rule it breaks.
    """

    line: int
    text: str
    why: str


def kernel_reads(text: str) -> list[KernelRead]:
    """Every place of the C `text` that reads, or may read, a field of a kernel struct; in order of lines."""
    code = _without_comments(text)
    own = set(re.findall(r"\b(?:struct|union)\s+(\w+)\s*(?:__attribute__\s*\(\(.*?\)\)\s*)?\{", code))
    own_types = set(re.findall(r"\}\s*(?:__attribute__\s*\(\(.*?\)\)\s*)?(\w+)\s*;", code))
    own_types |= set(re.findall(r"\btypedef\b[^;{}]*?\b(\w+)\s*;", code))
    found = [*_mentions(code, own), *_arrows(code, own, own_types), *_calls(code)]
    once: dict[tuple[int, str], KernelRead] = {}
    for read in found:  # the first reason for a place is the most telling one
        once.setdefault((read.line, read.text), read)
    return sorted(once.values(), key=lambda read: (read.line, read.text))


def _without_comments(text: str) -> str:
    """The same text, line for line, with comments and the contents of literals blanked."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    pattern = r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
    return re.sub(pattern, blank, re.sub(r"(?:[^\n]*\\\n)+[^\n]*", _spliced, text), flags=re.S)


def _spliced(lines: re.Match[str]) -> str:
    """Continued lines as the compiler sees them, followed by as many empty ones, so that line numbers stay."""
    parts = lines[0].split("\\\n")
    return "".join(parts) + "\n" * (len(parts) - 1)


def _at(code: str, position: int) -> int:
    return code.count("\n", 0, position) + 1


def _read(code: str, match: re.Match[str], why: str) -> KernelRead:
    return KernelRead(_at(code, match.start()), " ".join(match[0].split()), why)


_HIDDEN = (
    (
        re.compile(r"^[ \t]*#\s*define\b[^\n]*\b(?:struct|union)\b[^\n]*", re.M),
        "a macro that names a struct hides what is read",
    ),
    (
        re.compile(r"\b(?:__auto_type|typeof|__typeof__|typeof_member|container_of|offsetof)\b"),
        "the type that is read cannot be seen in the text",
    ),
)


def _mentions(code: str, own: set[str]) -> list[KernelRead]:
    """Kernel structs that occur as more than a plain pointer."""
    found = [_read(code, match, why) for pattern, why in _HIDDEN for match in pattern.finditer(code)]
    found += [
        _read(code, match, "another name for a kernel struct")
        for match in re.finditer(r"\btypedef\s+(?:const\s+)?(?:struct|union)\s+(\w+)(?!\s*\{)\b[^;{]*;", code)
        if match[1] not in own | STABLE
    ]
    for match in re.finditer(r"\b(?:struct|union)\s+(\w+)\b\s*(\**)\s*(\w*)\s*(\[?)", code):
        name, stars, variable = match[1], match[2], match[3]
        if name in own | STABLE or re.match(r"\s*;", code[match.end(1) :]):
            continue
        if not stars:
            found.append(_read(code, match, f"struct {name} by value has the size and layout of the headers"))
        elif variable:
            found += _uses(code, variable, name)
        else:
            found += _cast(code, match)
    return found


def _uses(code: str, variable: str, struct: str) -> list[KernelRead]:
    """What is done with a pointer to a kernel struct beyond passing it on."""
    why = f"{variable} points to struct {struct}"
    patterns = (
        rf"\b{variable}\s*->\s*\w+",
        rf"\b{variable}\s*\)*\s*(?:\[[^\]]*\]|->\s*\w+|\.\s*\w+)",
        rf"(?:[=(,;{{}}&|!<>?:+-]|\breturn)\s*\*+\s*\(*\s*{variable}\b(?!\s*[,)]\s*\{{)",
    )
    found = []
    for pattern in patterns:
        for match in re.finditer(pattern, code):
            declares = re.search(rf"\b(?:struct|union)\s+{struct}\s*$", code[: match.start()])
            if not declares:
                found.append(_read(code, match, why))
    return found


def _cast(code: str, match: re.Match[str]) -> list[KernelRead]:
    """A cast to a kernel pointer whose result is looked into at once."""
    statement = re.match(r"[^;{}]*", code[match.start() :])
    assert statement
    before = re.search(r"\*\s*\(+\s*$", code[: match.start()])
    if before or re.search(r"\)\s*(?:->|\[)", statement[0]):
        line = _at(code, match.start())
        return [KernelRead(line, " ".join(statement[0].split()), f"a cast to {match[0].strip()} that is read")]
    return []


_VALUE = r"(?:\s*=[^,;(){}]*(?:\([^;{}]*?\)|\{[^{}]*\})*[^,;(){}]*)?"
_DECLARATOR = rf"[\s*]*\b(\w+)\s*(?:\[[^\]]*\])*{_VALUE}"


def _declared(code: str, own: set[str], own_types: set[str]) -> set[str]:
    """Variables, parameters and members whose type the program declares itself or that is stable."""
    names = {"args", "ctx"}
    mine = "|".join(map(re.escape, sorted(own | STABLE)))
    types = "|".join(map(re.escape, sorted(own_types | STABLE)))
    for match in re.finditer(rf"\b(?:(?:struct|union)\s+(?:{mine})|(?:{types}))\b(?=[\s*])", code):
        at = match.end()
        while declarator := re.compile(_DECLARATOR).match(code, at):
            after = code[declarator.end() :].lstrip()[:1]
            if at != match.end() and after not in tuple(",;"):
                break  # the next parameter of a function, not the next variable of this type
            names.add(declarator[1])
            if after != ",":
                break
            at = code.index(",", declarator.end()) + 1
    # An anonymous struct declared together with its variable or member: `struct { int a; } inner;`
    names |= set(re.findall(r"\}\s*(\w+)\s*(?:\[[^\]]*\])*\s*[;=]", code))
    return names


# What stands before `->` or before a `.` that is no call of a map's method: a name, (*name), name[...], or more.
_MEMBER = re.compile(
    r"(?:\b(\w+)|\(\s*\*\s*(\w+)\s*\)|\b(\w+)\s*\[[^\]]*\]|[)\]])\s*(?:->\s*\w+|\.\s*[A-Za-z_]\w*\b(?!\s*\())"
)


def _arrows(code: str, own: set[str], own_types: set[str]) -> list[KernelRead]:
    """Member accesses through what the text does not declare."""
    known = _declared(code, own, own_types)
    numbers = re.compile(r"\d\w*")
    found = []
    for match in _MEMBER.finditer(code):
        base = next(filter(None, match.groups()), "")
        if base not in known and not numbers.fullmatch(base):
            found.append(_read(code, match, "its type is not declared in the program"))
    for match in re.finditer(r"\b\w+_t\b", code):
        name = match[0]
        if name not in own | own_types | STABLE and not NUMBERS.fullmatch(name):
            found.append(_read(code, match, f"{name} is a type of the headers"))
    return found


def _calls(code: str) -> list[KernelRead]:
    """Calls of functions from the headers, which may look inside what they are given."""
    mine = set(re.findall(r"#\s*define\s+(\w+)\(", code))
    mine |= set(re.findall(r"\b(\w+)\s*\([^;{}()]*(?:\([^()]*\)[^;{}()]*)*\)\s*\{", code))
    found = []
    for match in re.finditer(r"(\.\s*)?\b([A-Za-z_]\w*)\s*\(", code):
        name = match[2]
        allowed = METHOD if match[1] else CALLABLE
        if allowed.fullmatch(name) or KEYWORDS.fullmatch(name) or name in mine:
            continue
        found.append(_read(code, match, f"{name} comes from the headers and may read kernel structs"))
    return found
