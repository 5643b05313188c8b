"""The scalar of one pass whose reverse derivative is the backward of the tiles.

    phi_ij = sum_A prod_c p_c,ij^n_c * t_ij * <dA_i, x_j>  -  sum_c delta_c,i p_c,ij
             + sum_top hot_ij(d_top_i) z_ij
    p_c = exp(s_c - L_c);  dA, delta, L and indices are constants of the tile

Constants are put behind `Known` leaves, which the row kernel computes; so nothing is differentiated
through them and phi prints as in the papers.
"""

from __future__ import annotations

from collections.abc import Mapping

from attngen.ir import build
from attngen.ir.backward import KEEP, Definition
from attngen.ir.build import ONE, ZERO, mul
from attngen.ir.expr import Binary, Expr, Hot, Index, Known, Recomputed, Reduced
from attngen.ir.online import Accumulator, OnlinePlan
from attngen.passes.differentiate_reverse import is_norm, is_zero
from attngen.passes.differentiate_rows import (
    constant_factor,
    ordered_dot,
    plus,
    ratio,
    split_sum,
    times,
)


class Names:
    """Names of leaves, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, base: str) -> str:
        """`base`, or `base_2`, `base_3`, ..."""
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name


class Constants:
    """Values that a tile takes as they are: each becomes a leaf with a definition, once."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.definitions: list[Definition] = []
        self._leaves: dict[Expr, Known] = {}

    def hide(self, e: Expr, wish: str, signed: bool = False) -> Expr:
        """`e` behind a leaf; numbers and leaves stay visible, and the sign unless `signed`."""
        c, rest = constant_factor(e)
        if build.number(e) is not None or isinstance(rest, Known):
            return e
        if signed and c < 0:
            c, rest = -c, _negative(rest)
        if rest not in self._leaves:
            leaf = Known(self.names.take(wish), rest.axes, rest.feature, "float")
            self._leaves[rest] = leaf
            self.definitions.append(Definition(leaf, rest))
        return mul(build.const(c), self._leaves[rest])


class Lagrangian:
    """Builds phi of one stage from the adjoints of the reduced rows."""

    def __init__(
        self, plan: OnlinePlan, adjoints: Mapping[Expr, Expr], stage: int, constants: Constants
    ) -> None:
        self.plan, self.adjoints, self.stage, self.constants = plan, adjoints, stage, constants
        self.references = self._references()
        # weights -> {dot with a column row, or 1: tile factor}
        self.parts: dict[tuple[Recomputed, ...], dict[Expr, Expr]] = {}

    def phi(self) -> Expr:
        """The sum; 0 if no gradient reaches this stage."""
        for index, adjoint in self._accumulators().items():
            self._payload(self.plan.accumulators[index], adjoint)
        self._normalisers()
        phi = build.total(self._part(weights, terms) for weights, terms in self.parts.items())
        return build.add(phi, build.total(self._tops()))

    def _part(self, weights: tuple[Recomputed, ...], terms: Mapping[Expr, Expr]) -> Expr:
        found = [mul(factor, dot) for dot, factor in terms.items() if dot is not ONE]
        found += build.terms(terms.get(ONE, ZERO))
        c, inside = constant_factor(build.total(found))
        if c < 0:
            c, inside = -c, _negative(inside)
        for p in weights:  # weights are masked; a sum without weights masks its terms
            inside = mul(p, inside)
        inside = mul(build.const(c), inside)
        return inside if weights or is_zero(inside) else build.where(KEEP, inside, ZERO)

    def _references(self) -> dict[int, Expr]:
        """The normaliser of the recomputed weights of a class: the plain lse if it is in use.

        Then exp(lse - L) <= 1 for every other normaliser L of the class, a sink's share aside.
        """
        norms = [x for m in self.adjoints if isinstance(m, Reduced) for x in m.norms]
        norms += [e for e in self.adjoints if is_norm(e)]
        found: dict[int, Expr] = {}
        for norm in sorted(norms, key=lambda e: not isinstance(e, Reduced)):
            found.setdefault(class_of(norm), norm)
        return found

    def _weight(self, index: int) -> Recomputed:
        return Recomputed(index, self.plan.classes[index].score, self.references[index])

    def _ratio(self, norm: Expr) -> Expr:
        """exp(reference - norm)."""
        reference = self.references[class_of(norm)]
        return ONE if reference is norm else ratio(reference, norm)

    def _accumulators(self) -> dict[int, Expr]:
        """Adjoint of each accumulator of this stage, in units of the reference weights."""
        found: dict[int, Expr] = {}
        for m, g in self.adjoints.items():
            if not isinstance(m, Reduced) or m.what != "moment":
                continue
            if self.plan.accumulators[m.index].stage == self.stage:
                share = build.product(self._ratio(norm) for norm in m.norms)
                found[m.index] = plus(found.get(m.index, ZERO), times(g, share))
        return dict(sorted(found.items()))

    def _payload(self, a: Accumulator, adjoint: Expr) -> None:
        """Terms of one accumulator: prod p * t * <dA, x>."""
        weights = tuple(self._weight(c) for c, n in a.weights for _ in range(n))
        if a.row is None:
            self._add(weights, ONE, mul(self.constants.hide(adjoint, f"d_{a.name}"), a.scalar))
            return
        for coefficient, base in self._bases(a, adjoint):
            c = self.constants.hide(coefficient, f"c_{a.name}")
            row = self.constants.hide(base, f"d_{a.name}")
            sign, row = constant_factor(row)
            dot = ordered_dot(row, a.row)
            self._add(weights, dot, mul(build.const(sign), mul(c, a.scalar)))

    def _bases(self, a: Accumulator, adjoint: Expr) -> list[tuple[Expr, Expr]]:
        """The rows to multiply with the column row: bases if they are few, else dA as one row."""
        assert a.row is not None
        same = {i: x for i, x in self._accumulators().items() if self._row(i) is a.row}
        bases = {base for x in same.values() for _, base in split_sum(x)}
        if len(bases) > len(same):
            return [(ONE, adjoint)]
        found: dict[Expr, Expr] = {}
        for c, base in split_sum(adjoint):
            found[base] = plus(found.get(base, ZERO), c)
        return [(c, base) for base, c in found.items()]

    def _row(self, index: int) -> Expr | None:
        return self.plan.accumulators[index].row

    def _normalisers(self) -> None:
        """Terms -delta_c p_c: what flows into the logarithms of this stage's sums."""
        totals: dict[int, Expr] = {}
        for norm, g in self.adjoints.items():
            index = class_of(norm) if is_norm(norm) else -1
            if index >= 0 and self.plan.classes[index].stage == self.stage:
                totals[index] = plus(totals.get(index, ZERO), times(g, self._ratio(norm)))
        many = len(self.plan.classes) > 1
        for index, g in sorted(totals.items()):
            wish = f"delta_{self.plan.classes[index].name}" if many else "delta"
            delta = self.constants.hide(_negative(g), wish, signed=True)
            self._add((self._weight(index),), ONE, build.neg(delta))

    def _add(self, weights: tuple[Recomputed, ...], dot: Expr, factor: Expr) -> None:
        terms = self.parts.setdefault(weights, {})
        terms[dot] = plus(terms.get(dot, ZERO), factor)

    def _tops(self) -> list[Expr]:
        """hot(d_top) * score for each list of this stage."""
        found = []
        for e, g in self.adjoints.items():
            if not isinstance(e, Reduced) or e.what != "values":
                continue
            t = self.plan.tops[e.index]
            if t.stage == self.stage:
                indices = Reduced("indices", e.index, (), e.width)
                values = self.constants.hide(g, f"d_{t.name}")
                found.append(mul(self._hot(indices, values), t.score))
        return found

    def _hot(self, indices: Expr, values: Expr) -> Expr:
        if values.feature is not None or indices.feature is not None:
            return Hot(indices, values)
        return build.where(build.binary("eq", Index("kv_idx"), indices), values, ZERO)


def class_of(norm: Expr) -> int:
    """The class whose sum a normaliser is the logarithm of."""
    lse = norm.a if isinstance(norm, Binary) else norm
    assert isinstance(lse, Reduced)
    return lse.index


def _negative(e: Expr) -> Expr:
    """-e, term by term."""
    return build.total(build.neg(term) for term in build.terms(e))
