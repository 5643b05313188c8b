"""Runs the host function on symbols: straight code, and branches that are decided now.

operations: those of MLIR's LLVM dialect. What is not known here is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attngen.cutelib.host import numbers
from attngen.cutelib.host.memory import Memory, Place, read_type
from attngen.cutelib.host.numbers import HostCodeError, Number, constant
from attngen.cutelib.host.text import Block, Operation

LAUNCH = "_cudaLaunchKernelEx"
DYNAMIC = -(2**31)  # marks an index that is an operand
STEPS = 100_000
_DEPENDENT, _COOPERATIVE = 6, 2  # ids of launch attributes
_GRID, _BLOCK, _SHARED, _ATTRIBUTES, _COUNT = 0, 12, 24, 40, 48  # offsets in a launch's config
_ATTRIBUTE, _VALUE = 72, 8  # bytes of an attribute, where its value begins


@dataclass(frozen=True)
class Opaque:
    """A value that is only passed on: a scalar argument, the stream, poison."""

    name: str


@dataclass(frozen=True)
class Global:
    """A variable of the module."""

    name: str


@dataclass(frozen=True)
class Launched:
    """One launch. parameters: (type, memory) of each; grid: trees."""

    symbol: str
    grid: tuple[Number, ...]
    threads: int
    shared: int
    dependent: bool
    cooperative: bool
    parameters: tuple[Memory, ...]


class Run:
    """One run of a function, from its first block. arguments: the values it is called with."""

    def __init__(self, blocks: Mapping[str, Block], arguments: Sequence[Any]) -> None:
        self.blocks = blocks
        self.values: dict[str, Any] = {}
        self.launches: list[Launched] = []
        self.next: Block | None = None
        self._enter(next(iter(blocks)), arguments)

    def run(self) -> list[Launched]:
        """Its launches, in order."""
        left = STEPS
        while self.next is not None:
            block, self.next = self.next, None
            for operation in block.operations:
                left -= 1
                if left < 0:
                    raise HostCodeError("a loop that does not end")
                self._step(operation)
        return self.launches

    def _enter(self, name: str, arguments: Sequence[Any]) -> None:
        self.next = self.blocks[name]
        names = [own for own, _ in self.next.arguments]
        self.values |= zip(names, arguments, strict=True)

    def _step(self, op: Operation) -> None:
        handler = _HANDLERS.get(op.name)
        if handler is None:
            raise HostCodeError(f"an operation that has no form as data: {op.name}")
        found = handler(self, op, [self.values[x] for x in op.operands])
        if op.result:
            self.values[op.result] = found

    # ---- control --------------------------------------------------------------------------------
    def jump(self, op: Operation, given: list[Any]) -> None:
        """An unconditional branch."""
        self._enter(op.successors[0], given)

    def branch(self, op: Operation, given: list[Any]) -> None:
        """A branch whose condition is known."""
        condition, *rest = given
        if not condition.fixed:
            raise HostCodeError(f"a branch that depends on the call: {condition.tree}")
        taken = op.numbers("operandSegmentSizes")[1]
        first = condition.tree == 1
        self._enter(op.successors[0 if first else 1], rest[:taken] if first else rest[taken:])

    def call(self, op: Operation, given: list[Any]) -> Number:
        """A launch; nothing else may be called. It succeeds."""
        name = op.attributes["callee"].removeprefix("@")
        if name != LAUNCH:
            raise HostCodeError(f"a call of {name}")
        config, kernel, parameters = given
        if not isinstance(kernel, Global):
            raise HostCodeError("a launch of something that is no kernel")
        self.launches.append(_launched(config, kernel.name, parameters))
        return constant(0)

    # ---- memory ---------------------------------------------------------------------------------
    def element(self, op: Operation, given: list[Any]) -> Any:
        """Address arithmetic."""
        base, *dynamic = given
        type_ = read_type(op.attributes["elem_type"])
        indices = op.numbers("rawConstantIndices")
        first, *rest = [dynamic.pop(0) if i == DYNAMIC else constant(i) for i in indices]
        offset = _known(first) * type_.size
        for index in rest:
            start, type_ = type_.at(_known(index))
            offset += start
        if isinstance(base, Number):
            return numbers.address(*_address(base, offset))
        return Place(base.memory, base.offset + offset)

    def load(self, op: Operation, given: list[Any]) -> Any:
        """A read; a variable of the module stands for itself."""
        (place,) = given
        if isinstance(place, Global):
            return place
        return place.memory.load(place.offset, read_type(op.result_type))

    def store(self, op: Operation, given: list[Any]) -> None:
        """A write."""
        value, place = given
        place.memory.store(place.offset, read_type(op.types[0]), value)


def _launched(config: Place, kernel: str, parameters: Place) -> Launched:
    read = config.memory.values
    if config.offset:
        raise HostCodeError("a launch whose configuration is part of something")
    grid = tuple(read[_GRID + 4 * i] for i in range(3))
    block = [_known(read[_BLOCK + 4 * i]) for i in range(3)]
    found = dict(_attributes(read))
    dependent, cooperative = found.pop(_DEPENDENT, 0), found.pop(_COOPERATIVE, 0)
    if block[1:] != [1, 1] or any(found.values()):
        raise HostCodeError(f"a launch with a block of {block} threads, attributes {found}")
    places = [x for _, x in sorted(parameters.memory.values.items())]
    if any(place.offset for place in places):
        raise HostCodeError("a parameter that is part of something")
    return Launched(
        kernel,
        grid,
        block[0],
        _known(read[_SHARED]),
        bool(dependent),
        bool(cooperative),
        tuple(place.memory for place in places),
    )


def _attributes(config: dict[int, Any]) -> list[tuple[int, int]]:
    place = config[_ATTRIBUTES]
    starts = [place.offset + _ATTRIBUTE * i for i in range(_known(config[_COUNT]))]
    values = place.memory.values
    return [(_known(values[at]), _known(values[at + _VALUE])) for at in starts]


def _known(value: Any) -> int:
    if isinstance(value, Number) and isinstance(value.tree, int):
        return value.tree
    raise HostCodeError(f"a number that has to be known when compiling: {value}")


def _address(value: Number, offset: int) -> tuple[str, int]:
    match value.tree:
        case (numbers.ADDRESS, str(argument), int(start)):
            return argument, start + offset
    raise HostCodeError(f"an address that is computed: {value.tree}")


# ---- one operation each -------------------------------------------------------------------------
Handler = Callable[[Run, Operation, "list[Any]"], Any]


def _constant(_: Run, op: Operation, __: list[Any]) -> Any:
    value = op.attributes["value"].partition(" : ")[0]
    if value in ("true", "false"):
        return constant(int(value == "true"))
    return constant(int(value)) if value.lstrip("-").isdecimal() else Opaque("a constant")


def _extract(_: Run, op: Operation, given: list[Any]) -> Any:
    found = given[0]
    for i in op.numbers("position"):
        found = found[i]
    return found


def _insert(_: Run, op: Operation, given: list[Any]) -> Any:
    base, value = given
    return _inserted(base, op.numbers("position"), value)


def _inserted(base: Any, position: list[int], value: Any) -> Any:
    if not position:
        return value
    first, *rest = position
    made = dict(base) if isinstance(base, dict) else {}
    made[first] = _inserted(made.get(first), rest, value)
    return made


def _alloca(_: Run, op: Operation, __: list[Any]) -> Place:
    type_ = read_type(op.attributes["elem_type"])
    return Place(Memory(type_, sum(op.numbers("alignment"))))


def _compare(_: Run, op: Operation, given: list[Any]) -> Number:
    a, b = given
    name = _PREDICATES[op.numbers("predicate")[0]]
    if name.startswith("u") and min(a.low, b.low) < 0:
        raise HostCodeError("numbers compared without their sign")
    match name[-2:]:
        case "eq":
            return numbers.equal(a, b)
        case "ne":
            return numbers.opposite(numbers.equal(a, b))
        case "lt":
            return numbers.less(a, b)
        case "ge":
            return numbers.opposite(numbers.less(a, b))
        case "gt":
            return numbers.less(b, a)
    return numbers.opposite(numbers.less(b, a))


_PREDICATES = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")


def _two(operation: Callable[[Number, Number], Number]) -> Handler:
    return lambda _, __, given: operation(given[0], given[1])


def _narrow(_: Run, op: Operation, given: list[Any]) -> Number:
    (a,) = given
    bits = 8 * read_type(op.result_type).size
    if a.high >= 1 << (bits - 1) or a.low < -(1 << (bits - 1)):
        raise HostCodeError(f"a number cut to {bits} bits: {a.tree}")
    found: Number = a
    return found


def _same(_: Run, __: Operation, given: list[Any]) -> Any:
    return given[0]


def _nothing(*_: Any) -> None:
    return None


def _refuse(_: Run, op: Operation, __: list[Any]) -> Any:
    raise HostCodeError(f"the host function gives up ({op.name})")


_HANDLERS: dict[str, Handler] = {
    "llvm.mlir.constant": _constant,
    "llvm.mlir.poison": _nothing,
    "llvm.mlir.undef": _nothing,
    "llvm.mlir.addressof": lambda _, op, __: Global(op.attributes["global_name"].lstrip("@")),
    "llvm.extractvalue": _extract,
    "llvm.insertvalue": _insert,
    "llvm.alloca": _alloca,
    "llvm.getelementptr": Run.element,
    "llvm.load": Run.load,
    "llvm.store": Run.store,
    "llvm.br": Run.jump,
    "llvm.cond_br": Run.branch,
    "llvm.call": Run.call,
    "llvm.return": _nothing,
    "llvm.unreachable": _refuse,
    "llvm.add": _two(numbers.add),
    "llvm.sub": _two(numbers.sub),
    "llvm.mul": _two(numbers.mul),
    "llvm.udiv": _two(numbers.div),
    "llvm.sdiv": _two(numbers.div),
    "llvm.and": _two(numbers.both),
    "llvm.or": _two(numbers.either),
    "llvm.shl": lambda _, op, g: numbers.left(g[0], g[1], 8 * read_type(op.result_type).size),
    "llvm.lshr": _two(numbers.right),
    "llvm.icmp": _compare,
    "llvm.select": lambda _, __, given: numbers.select(*given),
    "llvm.sext": _same,
    "llvm.zext": _same,
    "llvm.trunc": _narrow,
    "llvm.ptrtoint": _same,
    "llvm.inttoptr": _same,
    "llvm.intr.smin": lambda _, __, g: numbers.select(numbers.less(g[0], g[1]), g[0], g[1]),
    "llvm.intr.smax": lambda _, __, g: numbers.select(numbers.less(g[0], g[1]), g[1], g[0]),
}
