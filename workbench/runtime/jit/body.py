"""One function on its way to LLVM: the values of the registers, the lines of the current block.

A register's value is kept in whichever forms it was needed so far: a 64-bit number, an address, a 32-bit number, or a
constant offset into the stack. Conversions are emitted where they are first asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from workbench.runtime.jit.flow import Graph
from workbench.runtime.jit.layout import RUN
from workbench.runtime.jit.shape import ADDRESS
from workbench.runtime.jit.unit import Unit

__all__ = ("STACK_BYTES", "Body", "Exit", "Value", "constant")

STACK_BYTES: Final = 512
UNLIKELY: Final = ", !prof !1"
INVARIANT: Final = ", !invariant.load !0"


class Value(NamedTuple):
    """What a register holds.

    Attributes
    ----------
    number : str
        i64 operand, or empty.
    address : str
        ptr operand, or empty.
    word : str
        i32 operand of the low half, the high half being 0 when `number` is empty; or empty.
    stack : int
        Offset from the low end of this function's stack, or -1.
    map : int
        Index of the map whose handle it is, or -1.
    function : int
        First slot of the function whose address it is, or -1.
    """

    number: str = ""
    address: str = ""
    word: str = ""
    stack: int = -1
    map: int = -1
    function: int = -1


ZERO: Final = Value("0")


def constant(number: int) -> Value:
    """A 64-bit constant, signed or unsigned."""
    number &= 0xFFFFFFFFFFFFFFFF
    return Value(str(number - (1 << 64) if number >> 63 else number))


@dataclass(slots=True)
class Exit:
    """How a block ended: the state of the registers there and where it goes.

    `condition` is empty for one target; no target: `lines` end in a return.
    """

    label: str
    lines: list[str]
    state: list[Value]
    slot: int
    targets: tuple[int, ...]
    condition: str = ""


@dataclass(slots=True)
class Body:
    """Builds the text of one function."""

    unit: Unit
    graph: Graph
    lines: list[str] = field(default_factory=list)
    label: str = "entry"
    state: list[Value] = field(default_factory=lambda: [ZERO] * 11)
    names: int = 0
    uses_stack: bool = False
    uses_buffer: bool = False
    uses_stop: bool = False
    uses_stopped: bool = False

    def new(self, text: str) -> str:
        """Emit an instruction and name its result."""
        self.names += 1
        name = f"%v{self.names}"
        self.lines.append(f"{name} = {text}")
        return name

    def emit(self, text: str) -> None:
        """Emit an instruction without result."""
        self.lines.append(text)

    def fresh(self) -> str:
        """A new label."""
        self.names += 1
        return f"b{self.names}"

    def begin(self, label: str) -> None:
        """Start an LLVM block within the current BPF block; the line before must have ended the last one."""
        self.lines.append(f"{label}:")
        self.label = label

    @property
    def stop_value(self) -> str:
        """What a function returns when the run was cut short: callbacks return 1, which ends their caller's loop."""
        return "0" if self.graph.start == 0 else "1"

    # Registers in the form that an instruction needs.

    def number(self, register: int) -> str:
        """As i64."""
        value = self.state[register]
        if value.number:
            return value.number
        if value.word:
            name = self.new(f"zext i32 {value.word} to i64")
        else:
            name = self.new(f"ptrtoint ptr {self.address(register)} to i64")
        self.state[register] = self.state[register]._replace(number=name)
        return name

    def word(self, register: int) -> str:
        """The low half as i32."""
        value = self.state[register]
        if value.word:
            return value.word
        number = self.number(register)
        if number[0] != "%":
            low = int(number) & 0xFFFFFFFF
            name = str(low - (1 << 32) if low >> 31 else low)
        else:
            name = self.new(f"trunc i64 {number} to i32")
        self.state[register] = self.state[register]._replace(word=name)
        return name

    def address(self, register: int) -> str:
        """As ptr."""
        value = self.state[register]
        if value.address:
            return value.address
        if value.function >= 0:
            self.unit.callbacks.add(value.function)
            return f"@callback_{value.function}"
        on_stack = value.stack >= 0
        name = self.stack(value.stack) if on_stack else self.to_address(self.number(register))
        self.state[register] = self.state[register]._replace(address=name)
        return name

    def to_address(self, number: str) -> str:
        """An i64 operand as ptr."""
        if number[0] != "%":
            return "null" if number == "0" else f"inttoptr (i64 {number} to ptr)"
        return self.new(f"inttoptr i64 {number} to ptr")

    def stack(self, offset: int) -> str:
        """Address of a byte of this function's stack."""
        self.uses_stack = True
        return self.new(f"getelementptr i8, ptr %stack, i64 {offset}")

    def is_address(self, register: int) -> bool:
        """The value is an address first."""
        value = self.state[register]
        return value.stack >= 0 or (bool(value.address) and not value.number)

    def memory(self, register: int, offset: int) -> str:
        """Address of the register's memory at a constant offset."""
        value = self.state[register]
        if value.stack >= 0 and 0 <= value.stack + offset < STACK_BYTES:
            return self.stack(value.stack + offset)
        base = self.address(register)
        return self.new(f"getelementptr i8, ptr {base}, i64 {offset}") if offset else base

    # Results.

    def set_number(self, register: int, name: str) -> None:
        """The register now holds an i64."""
        self.state[register] = Value(name)

    def set_word(self, register: int, name: str) -> None:
        """The register now holds an i32, zero-extended."""
        self.state[register] = Value(word=name)

    def set_address(self, register: int, name: str) -> None:
        """The register now holds an address."""
        self.state[register] = Value(address=name)

    # The run.

    def field_address(self, name: str) -> str:
        """Address of a field of struct wb_run."""
        offset = RUN[name]
        return self.new(f"getelementptr i8, ptr %run, i64 {offset}") if offset else "%run"

    def passed(self, register: int, *, as_address: bool) -> str:
        """Typed operand for a call."""
        if as_address:
            return f"ptr {self.address(register)}"
        return f"i64 {self.number(register)}"

    def check_stopped(self) -> None:
        """Return at once when what was just called was cut short."""
        self.uses_stopped = True
        stopped = self.new(f"load i32, ptr {self.field_address('stopped')}")
        test = self.new(f"icmp eq i32 {stopped}, 0")
        go = self.fresh()
        self.emit(f"br i1 {test}, label %{go}, label %stopped{UNLIKELY_FALSE}")
        self.begin(go)

    @property
    def counting(self) -> bool:
        """The function keeps what is left of the budget in its variable `%left`."""
        return self.graph.start in self.unit.counting

    def store_budget(self) -> None:
        """Before a return, or a call that counts as well: what is left goes back to the run."""
        if self.counting:
            left = self.new("load i64, ptr %left")
            self.emit(f"store i64 {left}, ptr {self.field_address('budget')}")

    def fetch_budget(self) -> None:
        """After a call that counts as well."""
        if self.counting:
            left = self.new(f"load i64, ptr {self.field_address('budget')}")
            self.emit(f"store i64 {left}, ptr %left")

    def spend(self) -> None:
        """Count down the budget; when nothing is left, stop the run."""
        self.uses_stop = True
        left = self.new("load i64, ptr %left")
        test = self.new(f"icmp eq i64 {left}, 0")
        go = self.fresh()
        self.emit(f"br i1 {test}, label %stop, label %{go}{UNLIKELY}")
        self.begin(go)
        less = self.new(f"add i64 {left}, -1")
        self.emit(f"store i64 {less}, ptr %left")

    def shaped(self, register: int, shape: int) -> str:
        """Operand of the register's value in the form that a block's phi has."""
        return self.address(register) if shape == ADDRESS else self.number(register)


UNLIKELY_FALSE: Final = ", !prof !2"
