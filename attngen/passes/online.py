"""The online form: formulas over the keys become accumulators of one pass and algebra on rows.

Bottom-up over the reductions: each is replaced by row nodes (`Reduced`) before its users are looked
at. Every rewrite is distributivity, shift invariance of softmax or the definition of logsumexp;
the method and its proof stand in docs/online_form.md. Order of everything made here follows the
spec and structural keys, never object identity.
"""

from __future__ import annotations

from attngen.ir import build
from attngen.ir.attention import Attention
from attngen.ir.build import factors, terms
from attngen.ir.expr import (
    Binary,
    Dot,
    Expr,
    LogSumExp,
    Softmax,
    Sum,
    Top,
    children,
)
from attngen.ir.online import OnlinePlan
from attngen.ir.walk import rebuild, rewrite, walk
from attngen.passes.online_dot import normal_dot
from attngen.passes.online_expand import Expander
from attngen.passes.online_finish import finish
from attngen.passes.online_key import Keys
from attngen.passes.online_place import Places
from attngen.passes.online_tables import Tables, has_key


def online(attention: Attention) -> OnlinePlan:
    """The accumulators, classes and top lists of a spec, and its outputs as row expressions.

    Raises SpecError: E410 a [query, key, feature] value is not a sum of scalar * row; E411 a
    product expands into too many terms; E412 weights outside a sum; E413 an output with a key axis.
    """
    outputs, places = _spelled_once(attention)
    lowering = _Lowering(places)
    rows = [(name, lowering.output(name, e)) for name, e in outputs]
    return finish(attention, rows, lowering.tables, places)


def _spelled_once(attention: Attention) -> tuple[list[tuple[str, Expr]], Places]:
    """Outputs in which expressions that differ in order only are one node, as written first."""
    keys, memo = Keys(), dict[Expr, Expr]()
    outputs = [(name, rewrite(e, keys.spelling, memo)) for name, e in attention.outputs]
    places = Places({}, {})
    for old, name in attention.names.items():
        places.names.setdefault(memo.get(old, old), name)
    for old, span in attention.spans.items():
        places.spans.setdefault(memo.get(old, old), span)
    return outputs, places


class _Lowering:
    """Replaces reductions by row nodes, filling the tables."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.tables = Tables()
        self.expander = Expander(self.tables, places)
        self.memo: dict[Expr, Expr] = {}

    def output(self, name: str, e: Expr) -> Expr:
        """The row expression of one result; refuses what is left over the keys."""
        row = self.lower(e)
        weights = next((x for x in walk(row) if isinstance(x, Softmax)), None)
        if weights is not None:
            raise self.places.refuse(
                "E412",
                "are softmax weights outside a sum over the keys",
                weights,
                f"used in `{name}`",
                "sum them with a value row: `sum(softmax(score) * v)`",
            )
        if has_key(row):
            raise self.places.refuse(
                "E413",
                f"keeps a key axis in `{name}`",
                e,
                "one value for each key",
                f"reduce it over the keys: `{name} = sum(...)`",
            )
        return row

    def lower(self, e: Expr) -> Expr:
        """`e` with its reductions replaced."""
        if e not in self.memo:
            self.places.inside.append(e)
            gathered = _gathered(e)
            if gathered is e:
                low = self._reduce(e, tuple(self.lower(c) for c in children(e)))
            else:
                low = self.lower(gathered)
            self.places.inside.pop()
            self.places.carry(e, low)
            self.memo[e] = low
        return self.memo[e]

    def _reduce(self, e: Expr, args: tuple[Expr, ...]) -> Expr:
        match e:
            case Sum():
                return self.expander.total(args[0])
            case Dot():
                return normal_dot(args[0], args[1], self.tables.keys, self.places)
            case LogSumExp():
                score, rows = self._score(args[0])
                return build.add(self.tables.norm(score, _sink(args, rows)), rows)
            case Softmax():
                score, rows = self._score(args[0])
                return Softmax(score, _sink(args, rows))
            case Top(count=count, part=part):
                score, rows = self._score(args[0])
                top = self.tables.top(score, count, part)
                return build.add(top, rows) if part == "values" else top
            case _:
                return rebuild(e, args)

    def _score(self, e: Expr) -> tuple[Expr, Expr]:
        """A score in its first spelling and the reduced rows that were added to it."""
        score, rows = self.tables.shifted(self.tables.closed(e))
        score = self.tables.keys.spelling(score)
        self.places.carry(e, score)
        return score, rows


def _sink(args: tuple[Expr, ...], rows: Expr) -> Expr | None:
    return build.sub(args[1], rows) if len(args) > 1 else None


def _gathered(e: Expr) -> Expr:
    """A sum(x) + b sum(y) -> sum(a x + b y) for rows x, y and factors known before the pass.

    One accumulator may then serve both: `sum(p v) - lam sum(p u v)` needs one payload less.
    """
    if not isinstance(e, Binary) or e.op != "add" or e.feature is None or has_key(e):
        return e
    inside: list[Expr] = []
    outside: list[Expr] = []
    for term in terms(e):
        body = _under_one_sum(term)
        (outside if body is None else inside).append(term if body is None else body)
    if len(inside) < 2:
        return e
    return build.add(Sum(build.total(inside)), build.total(outside))


def _under_one_sum(term: Expr) -> Expr | None:
    """A * sum(x) -> a * x when `a` needs no reduction and x is a row, else None."""
    parts = factors(term)
    sums = [f for f in parts if isinstance(f, Sum) and f.feature is not None]
    others = [f for f in parts if f not in sums]
    reduced = any(isinstance(x, Sum | LogSumExp | Top | Softmax) for x in walk(*others))
    if len(sums) != 1 or len(others) + 1 != len(parts) or reduced:
        return None
    return build.product([*others, sums[0].x])
