"""The end of the differentiation pass: fewer saved rows, tidy constants, places, what is saved.

A row that a result determines is read from the result: if `out = +-M + rest`, then M is
`+-(out - rest)`. Nothing is ever divided to recover a row, and rows that tile code reads (a score
that holds a reduced row) are saved in full precision, so that recomputed weights agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from attngen.ir import build
from attngen.ir.backward import BackwardPlan, Definition, Place, TilePass
from attngen.ir.build import mul
from attngen.ir.expr import Axes, Binary, Expr, Known, Reduced, Unary, children
from attngen.ir.walk import substitute, walk
from attngen.passes.differentiate_rows import constant_factor, tidy
from attngen.passes.online_key import Keys

RESULT = Axes.BATCH | Axes.HEAD | Axes.QUERY
_SINGULAR = ("log", "log2", "sqrt", "rsqrt", "recip", "exp", "exp2", "pow", "mod")


def finish(backward: BackwardPlan) -> BackwardPlan:
    """Recover rows from results, collect like terms, drop what is unused, derive the facts."""
    backward, results = _recovered(backward)
    backward = _collected(backward)
    backward = _placed(_inlined(backward))
    used = list(walk(*expressions(backward)))
    saved = [e for e in used if isinstance(e, Reduced)]
    keys = Keys()
    return replace(
        backward,
        results=tuple((name, leaf) for name, leaf in results if leaf in used),
        saved=tuple(sorted(saved, key=lambda e: (_ORDER[e.what], e.index, keys(e)))),
        masked_coefficients=any(_singular(e) for e in walk(*_tile_code(backward))),
    )


_ORDER = {"lse": 0, "moment": 1, "values": 2, "indices": 3}


def _singular(e: Expr) -> bool:
    """A value or a derivative that may be infinite at a pair that the mask drops."""
    return e.level == Axes.TILE and isinstance(e, Unary | Binary) and e.op in _SINGULAR


# ---- expressions


def _tile_code(b: BackwardPlan) -> Iterator[Expr]:
    for p in b.passes:
        yield from p.coefficients(Axes.QUERY, Axes.KEY, Axes.NONE, Axes.TILE)
        yield from (x.other for t in p.rows for x in t.products)


def _row_code(b: BackwardPlan) -> Iterator[Expr]:
    for p in b.passes:
        yield from (d.value for d in p.definitions)
    yield from (s.value for s in b.sums)
    yield from (g.value for g in b.gradients)


def expressions(b: BackwardPlan) -> Iterator[Expr]:
    """Everything a backward program evaluates."""
    yield from _tile_code(b)
    yield from _row_code(b)


Change = Callable[[Expr], Expr]


def _on_rows(b: BackwardPlan, change: Change, define: Change) -> BackwardPlan:
    """Row code rewritten; `define` for the values of definitions."""
    return replace(
        b,
        passes=tuple(
            replace(
                p,
                definitions=tuple(replace(d, value=define(d.value)) for d in p.definitions),
            )
            for p in b.passes
        ),
        sums=tuple(replace(s, value=change(s.value)) for s in b.sums),
        gradients=tuple(replace(g, value=change(g.value)) for g in b.gradients),
    )


def _on_tiles(b: BackwardPlan, change: Change) -> BackwardPlan:
    return replace(b, passes=tuple(_tile_pass(p, change) for p in b.passes))


def _tile_pass(p: TilePass, change: Change) -> TilePass:
    rows = (
        replace(
            t,
            products=tuple(
                replace(x, coefficient=change(x.coefficient), other=change(x.other))
                for x in t.products
            ),
        )
        for t in p.rows
    )
    return replace(
        p,
        phi=change(p.phi),
        rows=tuple(rows),
        numbers=tuple(replace(t, value=change(t.value)) for t in p.numbers),
        stores=tuple(replace(s, value=change(s.value)) for s in p.stores),
    )


# ---- rows read back from results


def _recovered(b: BackwardPlan) -> tuple[BackwardPlan, list[tuple[str, Known]]]:
    in_tiles = set(walk(*_tile_code(b)))
    wanted = {e for e in walk(*_row_code(b)) if isinstance(e, Reduced)} - in_tiles
    table: dict[Expr, Expr] = {}
    results: list[tuple[str, Known]] = []
    for name, e in b.forward.outputs:
        if name in b.forward.guarded or e.feature is None:
            continue
        found = _solved(build.terms(e), wanted, table)
        if found is not None:
            sign, moment, rest = found
            leaf = Known(name, RESULT, e.feature, "float")
            table[moment] = mul(build.const(sign), build.sub(leaf, rest))
            results.append((name, leaf))
    memo: dict[Expr, Expr] = dict(table)

    def change(e: Expr) -> Expr:
        return substitute(e, memo)

    return _on_rows(b, change, change), results


def _solved(
    terms: list[Expr], wanted: Iterable[Expr], table: dict[Expr, Expr]
) -> tuple[int, Expr, Expr] | None:
    """(sign, moment, rest) of the first term that is a moment found nowhere else in the sum."""
    for i, term in enumerate(terms):
        sign, m = constant_factor(term)
        rest = build.total(x for j, x in enumerate(terms) if j != i)
        inside = set(walk(rest))
        fits = isinstance(m, Reduced) and m.what == "moment" and m in wanted and m not in table
        if fits and sign in (1, -1) and m not in inside and not inside & table.keys():
            return int(sign), m, rest
    return None


# ---- constants of the tiles


def _collected(b: BackwardPlan) -> BackwardPlan:
    keys = Keys()
    return _on_rows(b, lambda e: e, lambda e: tidy(e, keys))


def _inlined(b: BackwardPlan) -> BackwardPlan:
    """Definitions that are just a leaf, a number or known per head are used in place."""
    table: dict[Expr, Expr] = {}
    for p in b.passes:
        for d in p.definitions:
            _, rest = constant_factor(d.value)
            plain = isinstance(rest, Known | Reduced) or build.number(d.value) is not None
            if plain or not d.value.level:
                table[d.leaf] = d.value

    def change(e: Expr) -> Expr:
        return substitute(e, table)

    b = _shared(_on_rows(_on_tiles(b, change), change, change))
    used = set(walk(*expressions(b)))
    return replace(
        b,
        passes=tuple(
            replace(p, definitions=tuple(d for d in p.definitions if _needed(d, table, used)))
            for p in b.passes
        ),
    )


def _shared(b: BackwardPlan) -> BackwardPlan:
    """Row code that holds the value of a definition reads its leaf; so do later definitions."""
    table: dict[Expr, Expr] = {}
    passes = []
    for p in b.passes:
        definitions = []
        for d in p.definitions:
            value = substitute(d.value, table) if children(d.value) else d.value
            definitions.append(replace(d, value=value))
            if children(d.value) and d.value.level:
                table.setdefault(d.value, d.leaf)
        passes.append(replace(p, definitions=tuple(definitions)))

    def change(e: Expr) -> Expr:
        return substitute(e, table)

    rows = replace(b, passes=())
    return replace(_on_rows(rows, change, change), passes=tuple(passes))


def _needed(d: Definition, table: dict[Expr, Expr], used: set[Expr]) -> bool:
    return d.leaf in used and d.leaf not in table


# ---- places


def _placed(b: BackwardPlan) -> BackwardPlan:
    """Which launch finishes each gradient and each sum over rows or columns."""
    summed = {leaf for p in b.passes for leaf in p.leaves}

    def place(level: Axes, value: Expr) -> Place:
        if level == Axes.KEY:
            return "keys"
        return "queries" if summed & set(walk(value)) else "rows"

    sums = tuple(replace(s, place=place(s.level, s.value)) for s in b.sums)
    gradients = tuple(
        replace(g, place="heads" if not g.of.level else place(g.of.level, g.value))
        for g in b.gradients
    )
    return replace(b, sums=sums, gradients=gradients)
