"""Turn the verifier's log into an error that shows the C line at which it gave up."""

from __future__ import annotations

import re

from workbench.errors import VerifierRejected

__all__ = ("rejection",)

_SOURCE = re.compile(r"^; (?P<text>.*?)(?: @ (?P<place>\S+:\d+))?$")
_INSTRUCTION = re.compile(r"^(\d+): \(")
_SUMMARY = (
    "processed ",
    "verification time",
    "stack depth",
    "max_states",
    "mark_precise:",
    "from ",
)
_HINTS = (
    (
        "unbounded memory access",
        "mask or compare the length with a constant right before the access",
    ),
    (
        "invalid access to map value",
        "check the offset against the value size right before the access",
    ),
    ("map_value_or_null", "compare the lookup's result with NULL first"),
    ("R0 invalid mem access 'map_value_or_null'", "compare the lookup's result with NULL first"),
    (
        "invalid mem access 'scalar'",
        "read foreign memory with bpf_probe_read_kernel or bpf_probe_read_user",
    ),
    ("unknown func", "this kernel or program type lacks that helper; see `workbench doctor`"),
    ("back-edge", "give the loop a constant bound, or use bpf_loop"),
    ("too many instructions", "shorten or bound the loops; the verifier gave up exploring paths"),
    (
        "BPF program is too large",
        "shorten or bound the loops; the verifier gave up exploring paths",
    ),
    ("Unreleased reference", "submit or discard every ring record on every path"),
)


def rejection(program: str, log: str, lines: dict[int, str] | None = None) -> VerifierRejected:
    """The error for a rejected program.

    Parameters
    ----------
    program : str
        Program name.
    log : str
        Verifier log (level 1 or higher).
    lines : dict, optional
        Source text by instruction index, used when the log itself carries none.

    Returns
    -------
    VerifierRejected
        Message: program, the verifier's reason, the C line, the instruction. The whole log is in `.log`.
    """
    reason, source, place, instruction = "", "", "", ""
    for line in log.splitlines():
        stripped = line.rstrip()
        if match := _SOURCE.match(stripped):
            source, place = match["text"].strip(), match["place"] or ""
        elif number := _INSTRUCTION.match(stripped):
            instruction = stripped
            if not source and lines:
                source = lines.get(int(number[1]), "").strip()
        elif (
            stripped
            and not stripped.startswith(_SUMMARY)
            and not re.match(r"^(R\d+|last_idx|\d+: R)", stripped)
        ) or re.match(
            r"^R\d+ (invalid|unbounded|type=|!read|pointer|min value|max value|is )", stripped
        ):
            reason = stripped
    where = f"\n  C line: {source}" + (f"  ({place})" if place else "") if source else ""
    at = f"\n  instruction: {instruction}" if instruction else ""
    hint = next(
        (text for sign, text in _HINTS if sign in log),
        "the whole verifier log is in the error's `.log`",
    )
    return VerifierRejected(
        f"the kernel's verifier refused program {program!r}: {reason or 'no reason given'}{where}{at}",
        hint,
        log,
    )
