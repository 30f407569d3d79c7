"""The abstract machine: registers, stack slots, frames. Registers and slots are immutable and shared between states."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from workbench.runtime.verifier import kinds as k
from workbench.runtime.verifier.kinds import UNKNOWN_OFFSET
from workbench.runtime.verifier.scalar import M64, UNKNOWN, Scalar, constant

__all__ = (
    "INVALID",
    "MISC",
    "MISC_SLOT",
    "NOTHING",
    "OBJECT",
    "SPILLED",
    "STACK_BYTES",
    "UNWRITTEN",
    "ZERO",
    "ZERO_SLOT",
    "Frame",
    "Reg",
    "Slot",
    "State",
    "number",
)

STACK_BYTES: Final = 512
_ZERO: Final = constant(0)
_RANGED: Final = frozenset(
    {k.MAP_VALUE, k.MEMORY, k.STACK, k.CONTEXT, k.PACKET, k.PACKET_META, k.PROBED}
)


class Reg:
    """What a register holds.

    Attributes
    ----------
    kind : int
        Of `kinds`, never NULLABLE: that is `null`.
    s : Scalar
        NUMBER: the number. Pointers: the variable part of the offset.
    off : int
        Fixed part of the offset.
    x : Any
        STACK: frame number; MAP, MAP_VALUE: map index; FUNCTION: its slot; NUMBER: True where it was read from a
        kernel structure and may be an address there; OPAQUE: what it is, a tuple.
    id : int
        Numbers: those with the same id are equal. Nullable pointers: become null together. Packet: same base.
    ref : int
        Number of the reference that must be released; 0 = none.
    size : int
        MEMORY: bytes. PACKET, PACKET_META: bytes from `off` 0 that are known to be there.
    null : bool
        May be 0 instead.
    readonly : bool
        MEMORY, PACKET: no stores.
    """

    __slots__ = ("id", "kind", "null", "off", "readonly", "ref", "s", "sig", "size", "x")

    def __init__(
        self,
        kind: int,
        s: Scalar = _ZERO,
        off: int = 0,
        x: Any = None,
        id: int = 0,
        ref: int = 0,
        size: int = 0,
        null: bool = False,
        readonly: bool = False,
    ) -> None:
        self.kind = kind
        self.s = s
        self.off = off
        self.x = x
        self.id = id
        self.ref = ref
        self.size = size
        self.null = null
        self.readonly = readonly
        sig: Any
        if kind == k.NUMBER or kind == k.DEAD:
            sig = kind
        elif null:
            sig = k.NULLABLE
        elif kind == k.STACK:
            sig = (kind, off + s.smin if not s.mask else UNKNOWN_OFFSET, x)
        elif kind in _RANGED:
            sig = (kind, off + s.smin if not s.mask else UNKNOWN_OFFSET)
        else:
            sig = kind
        self.sig = sig

    def but(self, **changes: Any) -> Reg:
        """A copy with some attributes changed."""
        values = {
            "s": self.s,
            "off": self.off,
            "x": self.x,
            "id": self.id,
            "ref": self.ref,
            "size": self.size,
            "null": self.null,
            "readonly": self.readonly,
        }
        values.update(changes)
        return Reg(values.pop("kind", self.kind), **values)

    @property
    def is_pointer(self) -> bool:
        """Anything but a number or nothing."""
        return self.kind not in (k.NUMBER, k.DEAD)

    def __str__(self) -> str:
        if self.kind == k.DEAD:
            return ""
        if self.kind == k.NUMBER:
            return str(self.s)
        text = k.KINDS[self.kind]
        if self.kind == k.STACK:
            text = f"stack of frame {self.x}"
        elif self.kind in (k.MAP, k.MAP_VALUE):
            text += f" {self.x}"
        elif self.kind == k.MEMORY:
            text += f" of {self.size} bytes"
        elif self.kind == k.OPAQUE:
            text = str(self.x[0])
        if self.kind not in (k.MAP, k.FUNCTION, k.OPAQUE):
            if self.off:
                text += f" {self.off:+d}"
            if self.s.mask or self.s.value:
                text += f" + ({self.s})"
        if self.kind in (k.PACKET, k.PACKET_META):
            text += f", {self.size} bytes checked"
        return text + (" or null" if self.null else "")

    def __repr__(self) -> str:
        return f"<Reg {self}>"


NOTHING: Final = Reg(k.DEAD)
_NUMBERS: dict[int, Reg] = {}


def number(s: Scalar | int) -> Reg:
    """A register with a number."""
    if isinstance(s, int):
        s &= M64
        known = _NUMBERS.get(s)
        if known is None:
            known = Reg(k.NUMBER, constant(s))
            if len(_NUMBERS) < 4096:
                _NUMBERS[s] = known
        return known
    if s is UNKNOWN:
        return _ANY
    return Reg(k.NUMBER, s)


_ANY: Final = Reg(k.NUMBER, UNKNOWN)

# Types of the bytes of a stack slot.
INVALID: Final = 0  # never written
SPILLED: Final = 1  # part of `reg`
MISC: Final = 2  # written, unknown
ZERO: Final = 3  # known to be 0
OBJECT: Final = 4  # part of an object that only helpers touch (dynptr): `reg` says which

Types: TypeAlias = bytes


class Slot:
    """8 bytes of stack. `types` has one entry per byte, lowest address first; `reg` what was spilled."""

    __slots__ = ("reg", "types")

    def __init__(self, types: bytes, reg: Reg | None = None) -> None:
        self.types = types
        self.reg = reg

    def __str__(self) -> str:
        if self.reg is not None and (self.types[0] == OBJECT or self.types == b"\1" * 8):
            return str(self.reg)
        text = "".join("?smz@"[kind] for kind in self.types)
        return f"[{text}]" + (f" {self.reg}" if self.reg is not None else "")


MISC_SLOT: Final = Slot(bytes([MISC]) * 8)
ZERO_SLOT: Final = Slot(bytes([ZERO]) * 8)
UNWRITTEN: Final = Slot(bytes([INVALID]) * 8)


class Frame:
    """One function's registers and stack. Slot i of the stack holds the bytes from r10 - 8 * (i + 1) on."""

    __slots__ = ("call_slot", "callback", "function", "number", "regs", "stack")

    def __init__(self, function: int, number: int, call_slot: int) -> None:
        self.function = function  # first slot of the function
        self.number = number  # 0 = main
        self.call_slot = call_slot  # where the caller called; -1 for the main function
        self.callback: Any = None  # CallbackInfo where a helper calls this frame
        self.regs: list[Reg] = [NOTHING] * 10 + [Reg(k.STACK, x=number)]
        self.stack: dict[int, Slot] = {}

    def copy(self) -> Frame:
        """An independent frame with the same (shared, immutable) content."""
        made: Frame = Frame.__new__(Frame)
        made.function = self.function
        made.number = self.number
        made.call_slot = self.call_slot
        made.callback = self.callback
        made.regs = self.regs.copy()
        made.stack = self.stack.copy()
        return made


class State:
    """Everything that is known at one point of one path."""

    __slots__ = (
        "checkpoint",
        "frames",
        "lock",
        "may_goto",
        "refs",
        "slot",
        "steps",
        "top",
        "trace",
    )

    def __init__(self) -> None:
        self.slot = 0  # next instruction
        self.frames: list[Frame] = []
        self.top: Frame = None  # type: ignore[assignment]
        self.refs: tuple[tuple[int, int], ...] = ()  # (id, slot where acquired)
        self.lock: tuple[Any, ...] | None = None  # the spin lock that is held
        self.may_goto = 0  # how often a may_goto was passed on this path
        self.trace: Any = (
            None  # what was executed to come here, newest first: (before, slot, event)
        )
        self.checkpoint: Any = None  # the kept state that this path left last
        self.steps = 0  # instructions on this path

    def copy(self) -> State:
        """An independent state."""
        made: State = State.__new__(State)
        made.slot = self.slot
        made.frames = [frame.copy() for frame in self.frames]
        made.top = made.frames[-1]
        made.refs = self.refs
        made.lock = self.lock
        made.may_goto = self.may_goto
        made.trace = self.trace
        made.checkpoint = self.checkpoint
        made.steps = self.steps
        return made

    def push(self, frame: Frame) -> None:
        """Enter a function."""
        self.frames.append(frame)
        self.top = frame

    def pop(self) -> Frame:
        """Leave it."""
        left = self.frames.pop()
        self.top = self.frames[-1]
        return left

    def map_regs(self, change: Any) -> None:
        """Replace every register and spilled register r by change(r) (None = leave it)."""
        for frame in self.frames:
            regs = frame.regs
            for i in range(10):
                new = change(regs[i])
                if new is not None:
                    regs[i] = new
            for at, slot in list(frame.stack.items()):
                if slot.reg is not None and slot.types[0] != OBJECT:
                    new = change(slot.reg)
                    if new is not None:
                        if new.kind == k.DEAD:
                            frame.stack[at] = UNWRITTEN  # an address that is gone is no number
                        else:
                            frame.stack[at] = Slot(slot.types, new)
