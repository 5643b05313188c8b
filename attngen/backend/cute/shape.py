"""What a program has to be for a CuTe kernel, and the parts a kernel is printed from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from attngen.backend.cute.parts import parts_of
from attngen.backend.cute.printer import NoScalarForm, TilePrinter
from attngen.backend.cute.riders import Riding, riders_of
from attngen.backend.cute.split import Split, split
from attngen.backend.cute.sums import Sums, missing_sums, payloads_of, sums_of
from attngen.backend.triton.step import bounded, conjuncts
from attngen.core.dtype import Dtype
from attngen.ir import index as ix
from attngen.ir.attention import Tensor
from attngen.ir.expr import Axes, Dot, Expr, Load, Reduced, Row, Side, Uniform
from attngen.ir.maskplan import Direction
from attngen.ir.online import Accumulator
from attngen.ir.program import Program
from attngen.ir.walk import walk

HALVES = (Dtype.BF16, Dtype.F16)
INPUTS = (*HALVES, Dtype.F32, Dtype.I32)
WIDEST = 256  # columns of a wgmma product, and of the registers that hold its sums
STEP = 16  # columns that one wgmma contracts
# (columns of queries, of values) whose kernels were held against the reference on a GPU
SEEN = frozenset({(64, 64), (64, 128), (128, 128), (192, 128), (256, 256)})
SEEN_SEVERAL = frozenset({(64, 64), (64, 128), (128, 128)})  # with several sums


@dataclass(frozen=True)
class Shape:
    """One softmax over one product, summed with one tensor of values, maybe several times."""

    query: Row
    key: Row
    value: Row
    split: Split
    bounded: bool
    half: Dtype
    riders: tuple[Riding, ...] = ()
    sums: Sums = field(default_factory=Sums)


def missing(program: Program) -> list[str]:
    """What of the program a CuTe kernel cannot do yet, in words; empty if it can do it."""
    found = [
        x
        for part in parts_of(program)
        for x in (*_storage(part), *_sums(part), *_mask(part), *_numbers(part))
    ]
    return list(dict.fromkeys(found))


def unseen(program: Program) -> str:
    """What is done, but was not timed or did not pass all of its tests on a GPU; "" for nothing."""
    if _is_packed(program):
        return "packed sequences"
    return "several sums of one softmax" if payloads_of(program.online) else ""


def shape_of(program: Program) -> Shape:
    """The parts of a program without anything missing."""
    weights = program.online.classes[0]
    half = _half(program)
    narrow = "f16" if half is Dtype.F16 else ""
    found = split(weights, bounded(weights, narrow))
    sides = _sides(found.dot) if found is not None else None
    value = _values(program)
    if found is None or sides is None or half is None or not value:
        raise ValueError("the program is not supported")  # `missing` says so first
    row = value[0].row
    assert isinstance(row, Row)
    read = (found.core, found.rest, found.column)
    riders = riders_of(program.attention, *read)
    sums = sums_of(program.online, found.dot)
    return Shape(*sides, row, found, bounded(weights, narrow), half, riders, sums)


def searched(way: Direction) -> bool:
    """Whether the bounds of a tile are searched for: runs of equal ids (documents)."""
    return any(isinstance(x, ix.FirstGe) for r in way.outer for x in ix.walk(r.lo))


def streams(program: Program) -> list[Tensor]:
    """Tensors read by rows."""
    plan = program.online
    roots: list[Expr] = [c.score for c in plan.classes] + [e for _, e in plan.outputs]
    roots += [x for a in plan.accumulators for x in (a.scalar, a.row) if x is not None]
    names = dict.fromkeys(x.tensor for x in walk(*roots) if isinstance(x, Row))
    return [program.attention.tensor(n) for n in names]


def _half(program: Program) -> Dtype | None:
    kinds = {t.dtype for t in streams(program)}
    return next(iter(kinds)) if len(kinds) == 1 and kinds <= set(HALVES) else None


def _storage(program: Program) -> Iterator[str]:
    yield from _packed(program)
    if _half(program) is None:
        yield "rows of other dtypes than one 16-bit float"
    for t in program.attention.tensors:
        if t.dtype not in INPUTS and not t.is_stream:
            yield f"{t.dtype.value} inputs ({t.name})"


def _is_packed(program: Program) -> bool:
    return any(t.packed for t in program.attention.tensors)


def _packed(program: Program) -> Iterator[str]:
    tensors = program.attention.tensors
    streams_ = [t for t in tensors if t.is_stream]
    if not _is_packed(program):
        return
    queries = {t.packed for t in streams_ if t.role == "query"}
    keys = {t.packed for t in streams_ if t.role != "query"}
    if None in queries | keys or len(queries) > 1 or len(keys) > 1:
        yield "packed queries with keys that are not packed"
    plan = program.online
    roots = [c.score for c in plan.classes] + [e for _, e in plan.outputs]
    roots += [a.scalar for a in plan.accumulators]
    roots += [plan.mask] if plan.mask is not None else []
    read = {x.tensor for x in walk(*roots) if isinstance(x, Load)}
    if any(t.packed and t.name in read for t in tensors):
        yield "numbers of packed inputs"
    if searched(program.mask.forward):
        yield "documents of packed sequences"


def _values(program: Program) -> list[Accumulator]:
    return [a for a in program.online.accumulators if a.row is not None]


def _sums(program: Program) -> Iterator[str]:
    plan = program.online
    if plan.tops:
        yield "top lists"
    if plan.stages > 1:
        yield "several passes over the keys"
    if len(plan.classes) != 1:
        yield f"{len(plan.classes)} softmaxes" if plan.classes else "sums without a softmax"
    values = _values(program)
    if any(a.weights != ((0, 1),) for a in plan.accumulators) or not values:
        yield "other sums than of softmax weights, with a row of values"
    elif not all(isinstance(a.row, Row) for a in values):
        yield "values that are computed"
    elif plan.classes and isinstance(values[0].row, Row):
        yield from _product(program, values[0].row)


def _product(program: Program, value: Row) -> Iterator[str]:
    weights = program.online.classes[0]
    found = split(weights, bounded(weights, ""))
    sides = None if found is None else _sides(found.dot)
    if found is None or sides is None:
        yield "scores without one product of a query row and a key row"
        return
    width = sides[0].width
    for name, size in (("queries", width), ("values", value.width)):
        if not isinstance(size, int) or size % STEP or size > WIDEST:
            yield f"{name} of {size} columns (a multiple of {STEP} up to {WIDEST} is needed)"
    yield from missing_sums(program.online, found.dot, sides[1])
    several = bool(payloads_of(program.online))
    if (width, value.width) not in (SEEN_SEVERAL if several else SEEN):
        more = " in several sums" if several else ""
        yield f"{width} columns of queries with {value.width} of values{more}"
    elif width != value.width and (searched(program.mask.forward) or _is_packed(program)):
        columns = f"{width} and {value.width} columns of queries and values"  # flat, not seen so
        yield f"bounds that are searched for with {columns}"
    for row in (*sides, value):
        if row.start % 8:
            yield f"columns of {row.tensor} from {row.start} on (16 bytes are not aligned)"


def _sides(dot: Dot) -> tuple[Row, Row] | None:
    """(query row, key row) of a product."""
    rows = [x for x in (dot.a, dot.b) if isinstance(x, Row)]
    by_side = {x.side: x for x in rows}
    if len(by_side) != 2 or Side.QUERY not in by_side or Side.KEY not in by_side:
        return None
    return by_side[Side.QUERY], by_side[Side.KEY]


def _mask(program: Program) -> Iterator[str]:
    plan = program.mask
    if len(plan.forward.outer) > 1 or len(plan.forward.full) > 1:
        yield "masks of several ranges of keys"
    if plan.needs:
        yield "masks with divisors known at run time"
    if any(x.axes & Axes.KEY and not x.axes & Axes.QUERY for x in conjuncts(program.online.mask)):
        # rows of such keys may hold anything, NaN too; weights of zero do not stop that
        yield "conditions on keys alone"
    names = {t.name: t.name for t in program.attention.tensors}
    printer = TilePrinter(program.attention, names)
    try:
        for r in (*plan.forward.outer, *plan.forward.full):
            printer.text(r.lo), printer.text(r.hi)
    except NoScalarForm as error:
        yield f"loop bounds that need a search ({error})"


def _numbers(program: Program) -> Iterator[str]:
    plan = program.online
    roots = [c.score for c in plan.classes] + [e for _, e in plan.outputs]
    roots += [plan.mask] if plan.mask is not None else []
    roots += [a.scalar for a in plan.accumulators]
    if any(isinstance(x, Uniform) for x in walk(*roots)):
        yield "random numbers (dropout)"
    for name, e in plan.outputs:
        wide = e.feature is not None
        if wide and not any(isinstance(x, Reduced) and x.width is not None for x in walk(e)):
            yield f"a result without a sum of rows ({name})"
        if wide and any(isinstance(x, Row) and x.side is Side.KEY for x in walk(e)):
            yield f"key rows in a result ({name})"
        if e.kind == "int":
            yield f"whole numbers as results ({name})"
        if wide and any(isinstance(x, Load) and x.feature is not None for x in walk(e)):
            yield f"a captured row in a result ({name})"
