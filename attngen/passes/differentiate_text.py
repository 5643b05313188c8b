"""The backward in formulas, for `explain`: what is saved, the row kernel, phi, the loops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attngen.ir.backward import BackwardPlan, NumberSum, Product, TilePass
from attngen.ir.expr import Axes, Dot, Expr, Known, Recomputed, Reduced, Row, children
from attngen.ir.online import OnlinePlan
from attngen.ir.text import formula
from attngen.ir.walk import walk
from attngen.passes.differentiate_finish import expressions

_LOOPS = {Axes.QUERY: "queries", Axes.KEY: "keys"}


def describe_backward(backward: BackwardPlan, names: Mapping[Expr, str] | None = None) -> list[str]:
    """Lines of text; names: what the user called expressions (`attention.names`).

    `p = exp(s - lse)` are the recomputed weights; `@` is a product summed over the tiles of a loop,
    `^T` its transpose; `sum_k`, `sum_q` add up numbers over keys or queries.
    """
    return list(_Text(backward, dict(names or {})).lines())


class _Text:
    def __init__(self, backward: BackwardPlan, names: dict[Expr, str]) -> None:
        self.backward = backward
        self.names: dict[Expr, str] = {}
        self.user = names
        self.taken: set[str] = set()
        for e in walk(*expressions(backward), *(p.phi for p in backward.passes)):
            if isinstance(e, Reduced):
                self._name(e, _reduced(e, backward.forward))

    def lines(self) -> Iterator[str]:
        """Saved rows, then the passes, then what is left of rows, columns and heads."""
        b = self.backward
        fused, queries, keys = b.products
        yield f"products per tile: {fused} fused, {queries} + {keys} in two loops"
        results = [name for name, _ in b.results]
        saved = [self.names[e] for e in b.saved]
        yield f"saved: {', '.join(saved) or 'nothing'}" + (
            f"; read back: {', '.join(results)}" if results else ""
        )
        for p in b.passes:
            yield from self._pass(p)
        for s in b.sums:
            over = "q" if s.level == Axes.QUERY else "k"
            yield f"{s.leaf.name} = sum_{over}({self._text(s.value)})"
        for g in b.gradients:
            over = f" summed over {', '.join(g.reduces)}" if g.reduces else ""
            sign = "+=" if g.adds else "="
            yield f"grad {formula(g.of)} {sign} {self._text(g.value)}  # {g.place}{over}"
        if b.masked_coefficients:
            yield "finished coefficients are masked: they may be infinite at a dropped pair"

    def _pass(self, p: TilePass) -> Iterator[str]:
        many = len(self.backward.passes) > 1
        yield f"tiles of pass {p.stage}:" if many else "tiles:"
        for d in p.definitions:
            yield f"  {d.leaf.name} = {self._text(d.value)}  # row kernel"
        yield from self._shared(p)
        yield f"  phi = {self._text(p.phi)}"
        yield from self._coefficients(p)
        for level, loop in _LOOPS.items():
            for t in p.rows:
                if t.leaf.level == level:
                    products = " + ".join(self._product(x, level) for x in t.products)
                    yield f"  {t.leaf.name} += {products}  # {loop} loop"
        for n in p.numbers:
            yield f"  {n.leaf.name} += {self._sum(n)}"
        for s in p.stores:
            how = "=" if s.map == "tile" else "+="
            yield f"  grad {formula(s.of, self.names)} {how} {self._text(s.value)}"

    def _shared(self, p: TilePass) -> Iterator[str]:
        """Names for weights, and for dots and named values that the tile uses."""
        classes = self.backward.forward.classes
        scores = {c.score: "s" if len(classes) == 1 else f"s_{c.name}" for c in classes}
        roots = [p.phi, *p.coefficients(Axes.QUERY, Axes.KEY, Axes.NONE, Axes.TILE)]
        for e in walk(*roots):
            if e in self.names:
                continue
            wish = self._wish(e, scores)
            if wish:
                text = self._text(e)
                yield f"  {self._name(e, wish)} = {text}"

    def _wish(self, e: Expr, scores: Mapping[Expr, str]) -> str:
        """What a part of the tile code should be called; nothing for one that needs no name."""
        if isinstance(e, Recomputed):
            return self.backward.forward.classes[e.index].name
        if e.level != Axes.TILE or not children(e):
            return ""
        if isinstance(e, Dot) and isinstance(e.a, Known):
            row = next((x.tensor for x in walk(e.b) if isinstance(x, Row)), "x")
            return ("do_" if e.a.name == "d_out" else "dp_") + row
        return self.user.get(e) or scores.get(e, "")

    def _coefficients(self, p: TilePass) -> Iterator[str]:
        """A name for each tile that products or sums read, in the order they are needed."""
        wanted = [(t.leaf, x.coefficient) for t in p.rows for x in t.products]
        wanted += [(n.leaf, n.value) for n in p.numbers]
        for leaf, e in wanted:
            if e not in self.names and children(e):
                text = self._text(e)
                yield f"  {self._name(e, 'g_' + leaf.name.removeprefix('d_'))} = {text}"

    def _product(self, x: Product, level: Axes) -> str:
        factor = f"{x.factor:.6g} * " if x.factor != 1 else ""
        transposed = "^T" if level == Axes.KEY else ""
        other = self._text(x.other)
        other = f"({other})" if " " in other else other
        return f"{factor}{self._text(x.coefficient)}{transposed} @ {other}"

    def _sum(self, n: NumberSum) -> str:
        over = {Axes.QUERY: "sum_k", Axes.KEY: "sum_q"}.get(n.leaf.level, "sum_qk")
        return f"{over}({self._text(n.value)})"

    def _text(self, e: Expr) -> str:
        return self.names[e] if e in self.names else formula(e, self.names)

    def _name(self, e: Expr, wish: str) -> str:
        name, number = wish, 1
        while name in self.taken:
            number += 1
            name = f"{wish}_{number}"
        self.taken.add(name)
        self.names[e] = name
        return name


def _reduced(e: Reduced, plan: OnlinePlan) -> str:
    """What a row reduced by the forward is called: lse, v_bar, top_at."""
    match e.what:
        case "lse":
            return "lse" if len(plan.classes) == 1 else f"lse_{plan.classes[e.index].name}"
        case "moment":
            name = plan.accumulators[e.index].name
            return name.removeprefix("acc_").removeprefix("sum_") + "_bar"
        case "values":
            return plan.tops[e.index].name
        case _:
            return f"{plan.tops[e.index].name}_at"
