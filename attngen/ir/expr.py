"""The expression IR: frozen, hash-consed node classes and one union.

Every node knows three facts, inferred from its arguments: `axes` (the positions its value varies
along), `feature` (its feature axis, if it is a row) and `kind` (bool, int or float). Their base is
in `attngen.ir.node`, the reductions over keys in `attngen.ir.reductions`; all are imported from
here.

Canonical forms kept by the smart constructors of `attngen.ir.build`, which is the way to make
nodes: `a - b` is `a + -1 * b`, `a / b` is `a * recip(b)`, `a > b` is `b < a`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from attngen.ir.node import Axes, Extent, Kind, Node, Side
from attngen.ir.reductions import (
    Hot,
    Known,
    LogSumExp,
    Recomputed,
    Reduced,
    Softmax,
    Sum,
    Top,
)

__all__ = [
    "ARITHMETIC",
    "Axes",
    "Binary",
    "COMPARE",
    "Cast",
    "Const",
    "Dot",
    "Expr",
    "Extent",
    "Hot",
    "Index",
    "Kind",
    "Known",
    "LOGIC",
    "Load",
    "LogSumExp",
    "MatMul",
    "Node",
    "Outer",
    "Recomputed",
    "Reduced",
    "Row",
    "Side",
    "Size",
    "Softmax",
    "State",
    "Sum",
    "Top",
    "UNARY",
    "Unary",
    "Uniform",
    "Where",
    "children",
    "matrix",
]


@dataclass(frozen=True, eq=False, slots=True)
class Const(Node):
    """A literal: bool, int or float (inf allowed, NaN not)."""

    value: bool | int | float

    def __post_init__(self) -> None:
        kind: Kind = (
            "bool"
            if isinstance(self.value, bool)
            else "int"
            if isinstance(self.value, int)
            else "float"
        )
        self._facts(Axes.NONE, None, kind)


@dataclass(frozen=True, eq=False, slots=True)
class Size(Node):
    """The size of a feature axis by name (`D`); a Const once the kernel is specialised."""

    name: str

    def __post_init__(self) -> None:
        self._facts(Axes.NONE, None, "int")


_INDEX_AXES = {
    "b": Axes.BATCH,
    "h": Axes.HEAD,
    "h_kv": Axes.HEAD,
    "q_idx": Axes.QUERY,
    "q_pos": Axes.QUERY,
    "kv_idx": Axes.KEY,
    "q_len": Axes.NONE,
    "kv_len": Axes.NONE,
    "t": Axes.TIME,
    "seq_len": Axes.NONE,
}


@dataclass(frozen=True, eq=False, slots=True)
class Index(Node):
    """A built-in index or length.

    Names: b h h_kv q_idx q_pos kv_idx q_len kv_len; t and seq_len in a recurrence.
    `q_len` and `kv_len` are per sequence (they vary with b under `packed` and `paged`).
    """

    name: str

    def __post_init__(self) -> None:
        self._facts(_INDEX_AXES[self.name], None, "int")


@dataclass(frozen=True, eq=False, slots=True)
class Row(Node):
    """The current row of a tensor with a feature axis: columns [start, start + width).

    tensor: name of a declared stream or input (views are resolved to their parent);
    width: extent of the columns read; start: first column (0 unless a view).
    """

    tensor: str
    side: Side
    width: Extent
    start: int

    def __post_init__(self) -> None:
        self._facts(Axes.BATCH | Axes.HEAD | self.side.axis, self.width, "float")


@dataclass(frozen=True, eq=False, slots=True)
class Load(Node):
    """One element of an input, at explicit indices; no index: a run-time scalar."""

    tensor: str
    index: tuple[Expr, ...]
    element: Kind

    def __post_init__(self) -> None:
        axes = Axes.NONE
        for i in self.index:
            axes |= i.axes
        self._facts(axes, None, self.element)


@dataclass(frozen=True, eq=False, slots=True)
class Unary(Node):
    """Pointwise function of one argument; `op` is one of UNARY."""

    op: str
    x: Expr

    def __post_init__(self) -> None:
        kind: Kind = "float"
        if self.op == "not":
            kind = "bool"
        elif self.op == "abs" or (self.op == "floor" and self.x.kind == "int"):
            kind = self.x.kind
        self._facts(self.x.axes, self.x.feature, kind)


@dataclass(frozen=True, eq=False, slots=True)
class Binary(Node):
    """Pointwise function of two arguments; `op` is one of ARITHMETIC, COMPARE or LOGIC."""

    op: str
    a: Expr
    b: Expr

    def __post_init__(self) -> None:
        both_int = self.a.kind != "float" and self.b.kind != "float"
        kind: Kind = (
            "bool" if self.op in COMPARE or self.op in LOGIC else "int" if both_int else "float"
        )
        self._facts(self.a.axes | self.b.axes, _feature(self.a, self.b), kind)


@dataclass(frozen=True, eq=False, slots=True)
class Where(Node):
    """`a` where the condition holds, else `b`; the other side's NaN does not leak."""

    condition: Expr
    a: Expr
    b: Expr

    def __post_init__(self) -> None:
        kinds = {self.a.kind, self.b.kind}
        kind: Kind = "float" if "float" in kinds else "int" if "int" in kinds else "bool"
        axes = self.condition.axes | self.a.axes | self.b.axes
        self._facts(axes, _feature(self.a, self.b), kind)


@dataclass(frozen=True, eq=False, slots=True)
class Cast(Node):
    """Conversion by dtype name (`f32(x)`, `i32(x)`); rounding to f16 / bf16 is observable."""

    x: Expr
    dtype: str

    def __post_init__(self) -> None:
        kind: Kind = (
            "bool"
            if self.dtype == "bool"
            else "int"
            if self.dtype in ("i8", "i32", "i64")
            else "float"
        )
        self._facts(self.x.axes, self.x.feature, kind)


@dataclass(frozen=True, eq=False, slots=True)
class Dot(Node):
    """Contraction of the feature axes of two rows: a number. Row x column is a tile product."""

    a: Expr
    b: Expr

    def __post_init__(self) -> None:
        self._facts(self.a.axes | self.b.axes, None, "float")


@dataclass(frozen=True, eq=False, slots=True)
class Uniform(Node):
    """Uniform number in [0, 1): Philox-4x32-10 keyed by `seed`, counted by (b, h, q_idx, kv_idx).

    Counter words (kv_idx, q_idx, h, b), key words (low, high) of the 64-bit seed; the first output
    word, top 24 bits, times 2**-24. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    SC 2011.
    """

    seed: Expr

    def __post_init__(self) -> None:
        self._facts(Axes.BATCH | Axes.HEAD | Axes.TILE, None, "float")


@dataclass(frozen=True, eq=False, slots=True)
class State(Node):
    """The running state of a recurrence: [rows] or [rows, columns] (second extent in `columns`)."""

    name: str
    rows: Extent
    columns: Extent | None

    def __post_init__(self) -> None:
        self._facts(Axes.BATCH | Axes.HEAD | Axes.TIME, self.rows, "float")


@dataclass(frozen=True, eq=False, slots=True)
class Outer(Node):
    """Outer product of two rows: [rows of a, rows of b] (recurrences only)."""

    a: Expr
    b: Expr

    def __post_init__(self) -> None:
        self._facts(self.a.axes | self.b.axes, self.a.feature, "float")


@dataclass(frozen=True, eq=False, slots=True)
class MatMul(Node):
    """Row times state (`k @ M`) or state times row (`M @ k`): the neighbouring axes contract."""

    a: Expr
    b: Expr

    def __post_init__(self) -> None:
        a, b = matrix(self.a), matrix(self.b)
        feature = b[1] if a is None and b is not None else a[0] if a is not None else None
        self._facts(self.a.axes | self.b.axes, feature, "float")


UNARY = [
    *("not", "exp", "exp2", "log", "log2", "tanh", "sigmoid", "silu", "relu", "softplus"),
    *("abs", "sqrt", "rsqrt", "recip", "floor", "sin", "cos"),
]
ARITHMETIC = ["add", "mul", "floordiv", "mod", "pow", "max", "min", "logaddexp"]
COMPARE = ["lt", "le", "eq", "ne"]
LOGIC = ["and", "or"]

Expr: TypeAlias = (
    Const
    | Size
    | Index
    | Row
    | Load
    | Unary
    | Binary
    | Where
    | Cast
    | Dot
    | Uniform
    | Softmax
    | Sum
    | LogSumExp
    | Top
    | Reduced
    | Known
    | Recomputed
    | Hot
    | State
    | Outer
    | MatMul
)


def matrix(e: Expr) -> tuple[Extent, Extent] | None:
    """Extents [rows, columns] of a matrix (states, outer products), else None."""
    match e:
        case State(rows=rows, columns=columns):
            return (rows, columns) if columns is not None else None
        case Outer(a=a, b=b):
            return (
                (a.feature, b.feature) if a.feature is not None and b.feature is not None else None
            )
        case Unary(x=x) | Cast(x=x):
            return matrix(x)
        case Binary(a=a, b=b):
            return matrix(a) or matrix(b)
        case Where(a=a, b=b):
            return matrix(a) or matrix(b)
        case _:
            return None


def children(e: Expr) -> tuple[Expr, ...]:
    """The arguments of a node, in the order of its fields."""
    match e:
        case Const() | Size() | Index() | Row() | State() | Known():
            return ()
        case Load(index=index):
            return index
        case Unary(x=x) | Cast(x=x) | Sum(x=x):
            return (x,)
        case Binary(a=a, b=b) | Dot(a=a, b=b) | Outer(a=a, b=b) | MatMul(a=a, b=b):
            return (a, b)
        case Where(condition=c, a=a, b=b):
            return (c, a, b)
        case Uniform(seed=seed):
            return (seed,)
        case Softmax(score=score, sink=sink) | LogSumExp(score=score, sink=sink):
            return (score,) if sink is None else (score, sink)
        case Top(score=score):
            return (score,)
        case Reduced(norms=norms):
            return norms
        case Recomputed(score=score, norm=norm):
            return (score, norm)
        case Hot(indices=indices, values=values):
            return (indices, values)


def _feature(a: Expr, b: Expr) -> Extent | None:
    return a.feature if a.feature is not None else b.feature
