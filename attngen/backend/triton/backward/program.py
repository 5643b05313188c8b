"""A backward as a program over more tensors: what the forward left behind is read like any input.

Gradients of results, results read back, saved rows and the numbers of the rows kernel become
tensors in the layout of the first query stream; a row of them is a `Row`, a number a `Load`. So the
printer, the loads, the masks and the hoisting of the forward serve the backward unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from attngen.backend.triton.backward.shares import shares
from attngen.backend.triton.backward.slots import SLOT, Slots
from attngen.backend.triton.layout import Layout, cut_alike, rows_of, side_tensors, size
from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.dtype import Dtype
from attngen.ir import build
from attngen.ir.attention import Axis, Tensor
from attngen.ir.backward import KEEP, BackwardPlan, Definition, Gradient, HeadSum, TilePass
from attngen.ir.expr import (
    Axes,
    Dot,
    Expr,
    Index,
    Kind,
    Known,
    Load,
    Recomputed,
    Reduced,
    Row,
    Side,
)
from attngen.ir.program import Program
from attngen.ir.walk import substitute, walk

INDEX = {"batch": "b", "head": "h", "position": "q_idx"}


@dataclass(frozen=True)
class Backward:
    """Everything the backward kernels are printed from.

    program: the forward's, with the further tensors declared; rows: the pass, over those tensors;
    saved, results, seeds: further tensors the caller hands over, with what they hold;
    made: tensor of each leaf the rows kernel defines; masked: coefficients the mask must zero;
    norms: tensor of each normaliser, which the rows kernel turns to log2 units, infinite on rows
    without keys; handed: tensor of each sum along the queries that a later launch reads, `received`
    the names of those of launches before; several: parts of a sum that more than one pass adds to.
    """

    program: Program
    plan: BackwardPlan
    tiles: TilePass
    sums: tuple[HeadSum, ...]
    gradients: tuple[Gradient, ...]
    saved: tuple[tuple[str, Reduced], ...]
    results: tuple[tuple[str, str], ...]
    seeds: tuple[tuple[str, str], ...]
    made: Mapping[Known, str]
    masked: frozenset[Expr]
    norms: Mapping[Expr, str]
    handed: Mapping[Known, str] = field(default_factory=dict)
    received: tuple[str, ...] = ()
    several: Mapping[Known, list[Known]] = field(default_factory=dict)

    def slots(self, e: Expr) -> int:
        """How many slots the list has that an expression reads at `SLOT`."""
        read = next(x for x in walk(e) if isinstance(x, Load) and SLOT in x.index)
        return size(self.program.attention.tensor(read.tensor).axes[-1].size)

    @property
    def own(self) -> list[str]:
        """Tensors that this pass makes, for itself or for the next."""
        return [*self.made.values(), *self.norms.values(), *self.handed.values()]

    @property
    def numbers(self) -> list[str]:
        """Tensors of numbers per query that are laid out [batch, heads, padded queries]."""
        names = [*self.own, *self.received]
        tensors = {t.name: t for t in self.program.attention.tensors}
        return [n for n in names if tensors[n].axes[-1].name == "padded"]

    def number(self, name: str) -> Load:
        """The read of a number per query."""
        t = self.program.attention.tensor(name)
        return Load(name, tuple(Index(INDEX[a.role]) for a in t.axes), "float")

    @property
    def given(self) -> list[str]:
        """Further tensors the host function takes."""
        names = [n for n, _ in self.saved] + [n for n, _ in self.results]
        return names + [n for n, _ in self.seeds]


def backward_program(program: Program, plan: BackwardPlan) -> Backward:
    """The backward of the last pass: what all passes save and read back. Raises SpecError E430."""
    return backward_programs(program, plan)[-1]


def backward_programs(program: Program, plan: BackwardPlan) -> tuple[Backward, ...]:
    """The backward by passes, in the order they run. Raises SpecError E430."""
    if not plan.passes:
        message = f"{program.attention.name} gives indices alone, and these have no gradient"
        fix = "call the kernel under torch.no_grad()"
        raise SpecError(Diagnostic("E430", message, help=fix))
    roots = [e for p in plan.passes for e in expressions_of(p)]
    roots += [s.value for s in plan.sums] + [g.value for g in plan.gradients]
    slots = Slots(plan, roots)
    maker = _Maker(program, slots)
    saved = tuple((maker.name(f"saved_{_what(r, i)}"), r) for i, r in enumerate(plan.saved))
    for name, r in saved:
        maker.add(r, name, maker.saved_dtype(r))
    results = tuple((maker.name(f"{o}_result"), o) for o, _ in plan.results)
    for (name, _), (_, leaf) in zip(results, plan.results, strict=True):
        maker.add(leaf, name, maker.half if leaf.width else Dtype.F32)
    seeds = tuple((maker.name(leaf.name), output) for output, leaf in plan.seeds)
    for (name, _), (_, leaf) in zip(seeds, plan.seeds, strict=True):
        maker.add(leaf, name, maker.half if leaf.width else Dtype.F32)
    gradients, sums, several = shares(plan)
    passes = []
    for i in range(len(plan.passes)):
        made = _one_pass(maker, plan, i)
        passes.append(
            replace(
                made,
                sums=tuple(replace(s, value=maker.read(s.value)) for s in sums[i]),
                gradients=tuple(replace(g, value=maker.read(g.value)) for g in gradients[i]),
            )
        )
        for leaf, name in made.handed.items():
            maker.hand(leaf, name)
    attention = replace(
        program.attention, tensors=(*program.attention.tensors, *maker.tensors), names={}
    )
    whole = replace(program, attention=attention)
    common = {"program": whole, "saved": saved, "results": results, "seeds": seeds}
    masked = frozenset(maker.masked)
    return tuple(
        replace(p, **common, masked=masked, several=several if p is passes[-1] else {})  # type: ignore[arg-type] # each value is of its field
        for p in passes
    )


def _one_pass(maker: _Maker, plan: BackwardPlan, number: int) -> Backward:
    """Tensors and expressions of one pass; gradients, sums and what all passes share are left."""
    tiles = plan.passes[number]
    received = tuple(maker.handed)
    made: dict[Known, str] = {}
    for d in tiles.definitions:
        if d.leaf in maker.slots.inlined:
            continue
        made[d.leaf] = maker.name(d.leaf.name)
        if d.leaf.width is None:
            maker.add_number(d.leaf, made[d.leaf])
        else:
            maker.add(d.leaf, made[d.leaf], maker.half)
    norms = {n: maker.name(f"norm_{i}") for i, n in enumerate(_norms(tiles))}
    for n, name in norms.items():
        maker.add_number(Known(name, n.axes, None, "float"), name)
    wanted = set(walk(*(e for p in plan.passes[number + 1 :] for e in expressions_of(p))))
    handed = {x: maker.name(f"{x.name}_sum") for x in tiles.leaves if x in wanted}
    read = maker.tile_pass(tiles)
    own_norms = {maker.read(n): name for n, name in norms.items()}
    return Backward(
        maker.program,
        plan,
        read,
        (),
        (),
        (),
        (),
        (),
        made,
        frozenset(),
        own_norms,
        handed,
        received,
    )


class _Maker:
    """Declares the further tensors and rewrites leaves into reads of them."""

    def __init__(self, program: Program, slots: Slots) -> None:
        self.program, self.slots = program, slots
        self.lists: dict[Expr, str] = {}  # tensor of each top list
        self.handed: list[str] = []
        query = side_tensors(program.attention, Side.QUERY)[0]
        self.half = query.dtype
        self.axes = tuple(a for a in query.axes if a.role in INDEX)
        self.packed = query.packed
        self.used = {t.name for t in program.attention.tensors}
        self.tensors: list[Tensor] = []
        self.table: dict[Expr, Expr] = {KEEP: build.TRUE}
        self.masked: set[Expr] = set()

    def name(self, wish: str) -> str:
        """A tensor name that nobody has."""
        name, count = wish, 1
        while name in self.used:
            name, count = f"{wish}_{count}", count + 1
        self.used.add(name)
        return name

    def saved_dtype(self, row: Reduced) -> Dtype:
        """As the forward stores it: moments like results, numbers in float32."""
        if row.what == "indices":
            return Dtype.I64
        return self.half if row.what == "moment" and row.feature else Dtype.F32

    def add(self, leaf: Expr, name: str, dtype: Dtype) -> None:
        """Declare the tensor of a leaf."""
        if leaf in self.slots.leaves:
            dtype = dtype if dtype is Dtype.I64 else Dtype.F32
            axes = (*self.axes, Axis(f"{name} slots", "feature", self.slots.leaves[leaf]))
            self.tensors.append(Tensor(name, "input", dtype, axes, packed=self.packed))
            self.lists[leaf] = name
            return
        if leaf.feature is None:
            self.tensors.append(Tensor(name, "input", dtype, self.axes, packed=self.packed))
            self.table[leaf] = Load(name, tuple(Index(INDEX[a.role]) for a in self.axes), "float")
            return
        wide = Axis(f"{name} columns", "feature", size(leaf.feature))
        self.tensors.append(Tensor(name, "query", dtype, (*self.axes, wide), packed=self.packed))
        self.table[leaf] = Row(name, Side.QUERY, size(leaf.feature), 0)

    def add_number(self, leaf: Expr, name: str) -> None:
        """Declare a number per query of the rows kernel: [batch, heads, queries padded to 64]."""
        if self.packed:
            self.add(leaf, name, Dtype.F32)
            return
        axes = (Axis("B", "batch"), Axis("H", "head"), Axis("padded", "position"))
        self.tensors.append(Tensor(name, "input", Dtype.F32, axes))
        index = (Index("b"), Index("h"), Index("q_idx"))
        self.table[leaf] = Load(name, index, "float")

    def hand(self, leaf: Known, name: str) -> None:
        """Declare a sum that later launches read: numbers in float32, rows as operands."""
        if leaf.width is None:
            self.add_number(leaf, name)
        else:
            self.add(leaf, name, self.half)
        self.handed.append(name)

    def _slot(self, leaf: Expr, slot: Expr) -> Expr:
        index: list[Expr] = [Index(INDEX[a.role]) for a in self.axes]
        kind: Kind = "int" if leaf.kind == "int" else "float"
        return Load(self.lists[leaf], (*index, slot), kind)

    def read(self, e: Expr) -> Expr:
        """An expression over leaves, over tensors."""
        out = substitute(self.slots.expand(e, self._slot), self.table)
        if any(x is KEEP for x in walk(e)):
            self.masked.add(out)
        return out

    def tile_pass(self, p: TilePass) -> TilePass:
        """The pass over tensors; leaves of its own sums stay."""
        return replace(
            p,
            definitions=tuple(
                Definition(d.leaf, self.read(d.value))
                for d in p.definitions
                if d.leaf not in self.slots.inlined
            ),
            rows=tuple(
                replace(
                    r,
                    products=tuple(
                        replace(x, coefficient=self.read(x.coefficient), other=self.read(x.other))
                        for x in r.products
                    ),
                )
                for r in p.rows
            ),
            numbers=tuple(replace(n, value=self.read(n.value)) for n in p.numbers),
            stores=tuple(replace(s, value=self.read(s.value)) for s in p.stores),
        )


def expressions(b: Backward) -> list[Expr]:
    """All expressions of the kernels of a pass."""
    out = [*expressions_of(b.tiles), *(r.of for r in b.tiles.rows)]
    return out + [g.value for g in b.gradients] + [s.value for s in b.sums]


def backward_layout(passes: Sequence[Backward]) -> Layout:
    """Cut feature axes: operands of a dot, a sum of rows and what it adds up, are cut alike."""
    roots = [e for b in passes for e in expressions(b)]
    summed = {r.leaf: r.of for b in passes for r in b.tiles.rows}
    dots = [d for d in walk(*roots) if isinstance(d, Dot)]
    together = [
        rows_of([d.a, d.b, *(summed[x] for x in walk(d) if isinstance(x, Known) and x in summed)])
        for d in dots
    ]
    for b in passes:
        together += _meeting(b)
    return cut_alike(together)


def _meeting(b: Backward) -> list[list[Row]]:
    """Rows of one pass that are cut alike."""
    together = []
    for r in b.tiles.rows:
        own = [_row(b.handed[r.leaf], r.leaf)] if r.leaf in b.handed else []
        together.append(rows_of([r.of, *(p.other for p in r.products), *own]))
    for d in b.tiles.definitions:
        if d.leaf.feature is not None:
            together.append([_row(b.made[d.leaf], d.leaf), *rows_of([d.value])])
    return together + [rows_of([g.of, g.value]) for g in b.gradients if isinstance(g.of, Row)]


def _row(name: str, leaf: Known) -> Row:
    """The row of a leaf, as its tensor."""
    return Row(name, Side.QUERY, size(leaf.feature), 0)


def expressions_of(p: TilePass) -> list[Expr]:
    """Everything the loops and the rows kernel of a pass evaluate."""
    out = list(p.coefficients(Axes.QUERY, Axes.KEY, Axes.NONE, Axes.TILE))
    out += [x.other for r in p.rows for x in r.products]
    return out + [d.value for d in p.definitions]


def _norms(p: TilePass) -> list[Expr]:
    """Normalisers of the weights that are recomputed, in order."""
    roots = [x.coefficient for r in p.rows for x in r.products] + [n.value for n in p.numbers]
    roots += [s.value for s in p.stores]
    return list(dict.fromkeys(e.norm for e in walk(*roots) if isinstance(e, Recomputed)))


def _what(r: Reduced, i: int) -> str:
    return f"lse_{r.index}" if r.what == "lse" else f"{r.what}_{i}"
