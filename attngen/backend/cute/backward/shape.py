"""What a backward has to be for the CuTe kernel, and the parts it is printed from.

The kernel forms five products: S = Q K^T and the seed rows times the values, then dV, dK and dQ.
A pair's derivative is a factor that S decides times a number that the second product decides; so
one register per pair carries it from one product to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attngen.backend.cute.printer import NoScalarForm
from attngen.backend.cute.split import Split, split, tile_dots
from attngen.backend.triton.backward.elements import computed
from attngen.backend.triton.backward.program import Backward
from attngen.core.dtype import Dtype
from attngen.ir import build
from attngen.ir.backward import Gradient, NumberSum, RowSum
from attngen.ir.expr import Axes, Binary, Dot, Expr, Load, Recomputed, Row, Side, Uniform
from attngen.ir.program import Program
from attngen.ir.walk import walk

HALVES = (Dtype.BF16, Dtype.F16)
STEP = 64  # columns: two warpgroups share those of dQ, a block of 32 numbers each
REGISTERS = 256  # columns of keys and values whose sums a thread can hold beside a step of 64


@dataclass(frozen=True)
class Derivative:
    """DS = early * late: early without the second product, late of it and of numbers per query."""

    early: Expr
    late: Expr
    factors: tuple[Expr, ...]


@dataclass(frozen=True)
class BackwardShape:
    """The five products and what goes between them.

    dk, dv: sums of the keys' gradient and the values'; weight: the coefficient of dv; score: the
    weights that are recomputed; scales: constants of dQ, dK, dV; sums: numbers per head that are
    summed over tiles, each with what dS is multiplied with.
    """

    query: Row
    key: Row
    value: Row
    seed: Row
    half: Dtype
    score: Recomputed
    split: Split
    weight: Expr
    derivative: Derivative
    product: Dot
    dq: RowSum
    dk: RowSum
    dv: RowSum
    scales: tuple[float, float, float]
    sums: tuple[tuple[NumberSum, Expr], ...]

    @property
    def columns(self) -> int:
        """Of the keys and the values together."""
        return int(self.key.width) + int(self.value.width)

    @property
    def carries(self) -> bool:
        """Whether a pair keeps another number than its weight for its derivative."""
        return self.derivative.early is not self.weight


class NoShape(Exception):  # noqa: N818 - a way out, not a mistake
    """The backward has no CuTe kernel; the message says why, in words."""


def missing(backward: Backward) -> list[str]:
    """Why a backward cannot be a CuTe kernel; empty if it can."""
    from attngen.backend.cute.backward.limits import limits  # noqa: PLC0415 - a cycle

    try:
        shape_of(backward)
        limits(backward.program, {t.name: t.name for t in backward.program.attention.tensors})
    except NoShape as reason:
        return [str(reason)]
    except NoScalarForm as reason:
        return [f"loop bounds that need a search ({reason})"]
    return []


def shape_of(backward: Backward) -> BackwardShape:
    """The parts of a backward. NoShape: why there are none."""
    _require(backward)
    dq, dk, dv = _sums(backward)
    weight, derivative = dv.products[0].coefficient, dq.products[0].coefficient
    if dk.products[0].coefficient is not derivative:
        raise NoShape("keys and queries with different derivatives")
    score = _only([e for e in walk(derivative, weight) if isinstance(e, Recomputed)], "softmax")
    weights = backward.plan.forward.classes[score.index]
    parts = split(weights, False)
    if parts is None or weights.score is not score.score:
        raise NoShape("scores without exactly one product of rows")
    query, key = _sides(parts.dot)
    value, seed = dv.of, dv.products[0].other
    product = _product(derivative, weight, parts.dot)
    if {product.a, product.b} != {value, seed}:
        raise NoShape("values that meet another row than their gradient's")
    if dq.products[0].other is not key or dk.products[0].other is not query:
        raise NoShape("queries or keys that are computed")
    if dq.of is not query or dk.of is not key:
        raise NoShape("queries or keys that are computed")
    assert isinstance(value, Row)
    assert isinstance(seed, Row)
    half = _rows(backward.program, query, key, value, seed)
    scales = tuple(_scale(backward, s) for s in (dq, dk, dv))
    factored = _derivative(derivative, product)
    return BackwardShape(
        query,
        key,
        value,
        seed,
        half,
        score,
        parts,
        weight,
        factored,
        product,
        dq,
        dk,
        dv,
        (scales[0], scales[1], scales[2]),
        tuple(_numbers(backward, factored)),
    )


def _require(backward: Backward) -> None:
    tensors, tiles = backward.program.attention.tensors, backward.tiles
    if len(backward.plan.passes) != 1:
        raise NoShape("two passes over the keys")
    if any(t.packed for t in tensors):
        raise NoShape("packed sequences")
    if any(t.dtype in (Dtype.I64, Dtype.F64) and not t.is_stream for t in tensors):
        raise NoShape("inputs of 64 bits")
    if tiles.stores:
        names = ", ".join(s.of.tensor for s in tiles.stores)
        raise NoShape(f"a gradient per pair ({names})")
    if any(isinstance(g.of, Load) and g.of.level and computed(g.of) for g in backward.gradients):
        raise NoShape("gradients at computed positions")
    roots = [s.value for s in tiles.numbers]
    roots += [p.coefficient for r in tiles.rows for p in r.products]
    if any(isinstance(x, Uniform) for x in walk(*roots)):
        raise NoShape("random numbers (dropout)")
    if len(backward.norms) != 1:
        raise NoShape(f"{len(backward.norms)} normalisers")


def _sums(backward: Backward) -> tuple[RowSum, RowSum, RowSum]:
    """(dQ, dK, dV)."""
    rows = backward.tiles.rows
    queries = [r for r in rows if r.leaf.level == Axes.QUERY]
    keys = [r for r in rows if r.leaf.level == Axes.KEY]
    if len(queries) != 1 or len(keys) != 2 or any(len(r.products) != 1 for r in rows):
        products = sum(len(r.products) for r in rows)
        raise NoShape(f"{products} products for gradients of rows (three are built)")
    derivative = queries[0].products[0].coefficient
    second = [r for r in keys if r.products[0].coefficient is derivative]
    first = [r for r in keys if r.products[0].coefficient is not derivative]
    if len(second) != 1 or len(first) != 1 or not isinstance(first[0].of, Row):
        raise NoShape("values that are computed")
    return queries[0], second[0], first[0]


def _only(found: list[Recomputed], what: str) -> Recomputed:
    distinct = list(dict.fromkeys(found))
    if len(distinct) != 1:
        raise NoShape(f"{len(distinct)} {what} weights in a derivative")
    return distinct[0]


def _sides(dot: Dot) -> tuple[Row, Row]:
    rows = {x.side: x for x in (dot.a, dot.b) if isinstance(x, Row)}
    if set(rows) != {Side.QUERY, Side.KEY}:
        raise NoShape("queries or keys that are computed")
    return rows[Side.QUERY], rows[Side.KEY]


def _product(derivative: Expr, weight: Expr, first: Dot) -> Dot:
    """The product of the seed rows and the values."""
    dots = [d for d in tile_dots(derivative) if d is not first]
    if len(dots) != 1 or any(d is not first for d in tile_dots(weight)):
        raise NoShape("another number of products per pair than two")
    return dots[0]


def _rows(program: Program, *rows: Row) -> Dtype:
    attention = program.attention
    kinds = {attention.tensor(r.tensor).dtype for r in rows}
    if len(kinds) != 1 or not kinds <= set(HALVES):
        raise NoShape("rows of other dtypes than one 16-bit float")
    query, key, value, _ = rows
    for row in rows:
        whole = attention.tensor(row.tensor).axes[-1].size
        if row.start or row.width != whole:
            raise NoShape(f"columns of {row.tensor} that are a part of its rows")
        if not isinstance(row.width, int) or row.width % STEP:
            raise NoShape(f"{row.tensor} of {row.width} columns (a multiple of {STEP} is needed)")
    if int(key.width) + int(value.width) > REGISTERS:
        raise NoShape(
            f"keys and values of {key.width} and {value.width} columns "
            f"(their sums fit registers up to {REGISTERS} together)"
        )
    shared = [tuple(a.role for a in attention.tensor(r.tensor).axes) for r in (key, value)]
    if [("batch" in roles) for roles in shared] != [
        any(a.role == "batch" for a in attention.tensor(query.tensor).axes)
    ] * 2:
        raise NoShape("keys or values that batches share")
    return next(iter(kinds))


def _scale(backward: Backward, s: RowSum) -> float:
    """The constant between a finished sum and its gradient."""
    found = [g for g in backward.gradients if any(x is s.leaf for x in walk(g.value))]
    if len(found) != 1 or found[0].of is not s.of:
        raise NoShape(f"a gradient of {_tensor(s)} that is computed from its sum")
    g = found[0]
    left = [r for r in g.reduces if s.leaf.level != Axes.KEY or r not in ("group", "h")]
    if left:
        raise NoShape(f"a gradient of {g.tensor} summed over {', '.join(left)}")
    return s.products[0].factor * _constant(g, s)


def _tensor(s: RowSum) -> str:
    return s.of.tensor if isinstance(s.of, Row) else "a row"


def _constant(g: Gradient, s: RowSum) -> float:
    e = g.value
    if e is s.leaf:
        return 1.0
    if isinstance(e, Binary) and e.op == "mul" and e.b is s.leaf:
        c = build.number(e.a)
        if c is not None:
            return float(c)
    raise NoShape(f"a gradient of {g.tensor} that is computed from its sum")


def factors(e: Expr) -> list[Expr]:
    """The factors of a product."""
    if isinstance(e, Binary) and e.op == "mul":
        return [*factors(e.a), *factors(e.b)]
    return [e]


def _derivative(e: Expr, product: Dot) -> Derivative:
    found = factors(e)
    late = [x for x in found if any(y is product for y in walk(x))]
    early = [x for x in found if x not in late]
    if len(late) != 1 or not early:
        raise NoShape("a derivative that is not one factor times the second product's")
    for x in walk(late[0]):
        other = isinstance(x, Dot | Recomputed) and x is not product
        if other or (isinstance(x, Load) and x.axes & Axes.KEY):
            raise NoShape("a derivative of more than one number per pair")
    return Derivative(_times(early), late[0], tuple(found))


def _times(found: list[Expr]) -> Expr:
    out = found[0]
    for x in found[1:]:
        out = build.mul(out, x)
    return out


def _numbers(backward: Backward, d: Derivative) -> Iterator[tuple[NumberSum, Expr]]:
    """Numbers summed over tiles: each dS times something of positions and inputs."""
    for n in backward.tiles.numbers:
        if n.leaf.level != Axes.NONE:
            what = "query" if n.leaf.level == Axes.QUERY else "key"
            raise NoShape(f"a sum of numbers per {what} ({n.leaf.name})")
        left = factors(n.value)
        for x in d.factors:
            if x not in left:
                raise NoShape(f"a number that is not summed from scores ({n.leaf.name})")
            left.remove(x)
        rest = _times(left) if left else build.const(1.0)
        if any(isinstance(x, Dot | Recomputed) for x in walk(rest)):
            raise NoShape(f"a number that needs the product again ({n.leaf.name})")
        yield n, rest
