"""Differentiation: from an OnlinePlan to the tile programs of its backward.

Reverse mode by level. Rows first: adjoints of moments, normalisers and top lists. Then one scalar
phi per stage, latest first, whose reverse derivative gives every product and sum over tiles; what
they sum becomes a seed of earlier rows, of columns or of heads. No case per variant: see
docs/backward.md for the method and its proof.
"""

from __future__ import annotations

from collections.abc import Mapping

from attngen.ir import build
from attngen.ir.attention import Attention
from attngen.ir.backward import (
    BackwardPlan,
    Gradient,
    HeadSum,
    NumberSum,
    Product,
    RowSum,
    TilePass,
    TileStore,
)
from attngen.ir.build import ONE, ZERO, mul
from attngen.ir.expr import Axes, Expr, Known, Load, Reduced, Row, Where
from attngen.ir.online import OnlinePlan
from attngen.passes.differentiate_finish import finish
from attngen.passes.differentiate_phi import Constants, Lagrangian, Names
from attngen.passes.differentiate_places import differentiable, map_of, reduces_of
from attngen.passes.differentiate_reverse import Adjoints, is_zero, reverse
from attngen.passes.differentiate_rows import constant_factor, plus
from attngen.passes.differentiate_rules import Active

HERE = Axes.BATCH | Axes.HEAD  # every value of the backward may differ between heads


def differentiate(attention: Attention, plan: OnlinePlan) -> BackwardPlan:
    """The backward of a plan: gradients of every floating input that is not `const`.

    Results that are integers get no gradient; top lists pass theirs on through the saved indices.
    """
    return _Backward(attention, plan).made()


class _Backward:
    """Adjoints by level, filled from the results down."""

    def __init__(self, attention: Attention, plan: OnlinePlan) -> None:
        self.attention, self.plan = attention, plan
        still = {t.name for t in attention.tensors if not differentiable(t)}
        self.active = Active(plan, still)
        self.names = Names()
        self.constants = Constants(self.names)
        self.seeds: dict[Axes, dict[Expr, Expr]] = {Axes.QUERY: {}, Axes.KEY: {}, Axes.NONE: {}}
        self.guarded: dict[Expr, dict[Expr, Expr]] = {}  # test for a row without keys -> seeds
        self.outputs: list[tuple[str, Known]] = []
        self.passes: list[TilePass] = []
        self.sums: list[HeadSum] = []
        self.gradients: list[Gradient] = []
        self.stored: set[str] = set()

    def made(self) -> BackwardPlan:
        """All levels in order."""
        self._results()
        for stage in range(self.plan.stages, 0, -1):
            self._tiles(stage)
        self._leaves(Axes.QUERY, self._rows())
        for level in (Axes.KEY, Axes.NONE):
            self._leaves(level, reverse(level, self.seeds[level], self.active))
        tensors = tuple(t.name for t in self.attention.tensors if differentiable(t))
        backward = BackwardPlan(
            tuple(self.outputs),
            (),
            (),
            tuple(self.passes),
            tuple(self.sums),
            tuple(self.gradients),
            tensors,
            masked_coefficients=False,
            forward=self.plan,
        )
        return finish(backward)

    def _seed(self, node: Expr, g: Expr) -> None:
        seeds = self.seeds[node.level]
        seeds[node] = plus(seeds.get(node, ZERO), g)

    def _results(self) -> None:
        for name, e in self.plan.outputs:
            if not self.active(e):
                continue
            leaf = Known(self.names.take(f"d_{name}"), HERE | Axes.QUERY, e.feature, "float")
            self.outputs.append((name, leaf))
            if name in self.plan.guarded and isinstance(e, Where):
                inside = self.guarded.setdefault(e.condition, {})
                inside[e.b] = plus(inside.get(e.b, ZERO), leaf)
            elif e.level == Axes.QUERY:
                self._seed(e, leaf)
            else:
                self._head_sum(e, Axes.QUERY, leaf)

    def _rows(self) -> Adjoints:
        """Adjoints of the rows; through a guarded result they are 0 on rows without keys.

        There the slopes under the guard may be infinite, and 0 * inf is not 0.
        """
        found = reverse(Axes.QUERY, self.seeds[Axes.QUERY], self.active)
        for empty, seeds in self.guarded.items():
            inside = reverse(Axes.QUERY, seeds, self.active)
            for into, new in ((found.leaves, inside.leaves), (found.edges, inside.edges)):
                for e, g in new.items():
                    into[e] = plus(into.get(e, ZERO), build.where(empty, ZERO, g))
        return found

    # ---- tiles

    def _tiles(self, stage: int) -> None:
        rows = self._rows()
        before = len(self.constants.definitions)
        phi = Lagrangian(self.plan, rows.leaves, stage, self.constants).phi()
        if is_zero(phi):
            return
        tile = reverse(Axes.TILE, {phi: ONE}, self.active)
        row_sums = tuple(self._row_sum(e, others) for e, others in tile.products.items())
        numbers = tuple(self._number_sum(e, g) for e, g in _without_factors(tile.edges).items())
        stores = tuple(self._store(e, g) for e, g in tile.leaves.items() if isinstance(e, Load))
        definitions = tuple(self.constants.definitions[before:])
        self.passes.append(TilePass(stage, phi, definitions, row_sums, numbers, stores))

    def _leaf(self, node: Expr) -> Known:
        name = self.names.take(f"d_{self._name(node)}")
        return Known(name, HERE | node.level, node.feature, "float")

    def _name(self, node: Expr) -> str:
        """What the gradient of `node` is called."""
        if isinstance(node, Row | Load):
            return node.tensor
        if node in self.attention.names:
            return self.attention.names[node]
        if not isinstance(node, Reduced):
            return {Axes.QUERY: "row", Axes.KEY: "column"}.get(node.level, "number")
        match node.what:
            case "lse":
                return f"lse_{self.plan.classes[node.index].name}"
            case "moment":
                return self.plan.accumulators[node.index].name
            case _:
                return self.plan.tops[node.index].name

    def _row_sum(self, node: Expr, others: Mapping[Expr, Expr]) -> RowSum:
        leaf = self._leaf(node)
        parts = [(other, *constant_factor(g)) for other, g in others.items()]
        factors = {c for _, c, _ in parts}
        common = factors.pop() if len(factors) == 1 else 1
        products = tuple(Product(g, other, float(c / common)) for other, c, g in parts)
        self._seed(node, mul(build.const(common), leaf))
        return RowSum(leaf, node, products)

    def _number_sum(self, node: Expr, g: Expr) -> NumberSum:
        leaf = self._leaf(node)
        c, value = constant_factor(g)
        self._seed(node, mul(build.const(c), leaf))
        return NumberSum(leaf, node, value)

    def _store(self, of: Load, value: Expr) -> TileStore:
        adds = of.tensor in self.stored
        self.stored.add(of.tensor)
        return TileStore(of, value, map_of(of), reduces_of(of, self.attention), adds)

    # ---- rows, columns, heads

    def _leaves(self, level: Axes, found: Adjoints) -> None:
        for e, g in found.leaves.items():
            if isinstance(e, Row | Load):
                self._gradient(e, g)
        for e, g in found.edges.items():
            self._head_sum(e, level, g)

    def _gradient(self, of: Row | Load, value: Expr) -> None:
        adds = of.tensor in self.stored
        self.stored.add(of.tensor)
        reduces = reduces_of(of, self.attention)
        self.gradients.append(Gradient(of, value, "heads", map_of(of), reduces, adds))

    def _head_sum(self, node: Expr, level: Axes, value: Expr) -> None:
        leaf = self._leaf(node)
        self.sums.append(HeadSum(leaf, level, value, "rows"))
        self._seed(node, leaf)


def _without_factors(edges: Mapping[Expr, Expr]) -> dict[Expr, Expr]:
    """Contributions to c * x as contributions to x."""
    found: dict[Expr, Expr] = {}
    for e, g in edges.items():
        c, x = constant_factor(e)
        found[x] = plus(found.get(x, ZERO), mul(build.const(c), g))
    return found
