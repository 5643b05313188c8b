"""Left operands kept in registers: half a query row in the tile, twice the product in the formula.

Triton keeps an operand of wgmma in shared memory unless something was computed from it. Half a row
is exact, the factor two folds into the constants of the score, and 32 KB of shared memory are free
for a second program on the multiprocessor.

Seen right on an H200 with Triton 3.6.0 for bf16 rows of 128 columns, 64 x 64 tiles and scores
linear in their product (lengths to 8192); seen silently wrong there for a soft-cap. Nothing else
was run at such lengths, so nothing else takes this form.
"""

from __future__ import annotations

from dataclasses import replace

from attngen.backend.triton.backward.program import Backward
from attngen.ir import build
from attngen.ir.backward import TilePass
from attngen.ir.expr import Axes, Dot, Expr, Row, Side, children
from attngen.ir.walk import substitute, walk

QUERY_LEVELS = (Axes.QUERY, Axes.NONE, Axes.TILE)


def halve(backward: Backward) -> tuple[Backward, list[str]]:
    """The backward with every tile product doubled, and the query tensors to halve.

    No tensors if some query row is read outside of a tile product: then nothing changes.
    """
    roots = list(backward.tiles.coefficients(*QUERY_LEVELS))
    products = [e for e in walk(*roots) if isinstance(e, Dot) and e.level == Axes.TILE]
    inside = {x for d in products for x in (d.a, d.b) if _is_query(x)}
    readers = [e for e in walk(*roots) if any(_is_query(c) for c in children(e))]
    if not inside or any(e not in products for e in readers):
        return backward, []
    table: dict[Expr, Expr] = {
        d: build.mul(build.const(2.0), d) for d in products if _is_query(d.a) or _is_query(d.b)
    }
    tiles = _rewrite(backward.tiles, table)
    masked = frozenset(substitute(e, table) for e in backward.masked)
    names = dict.fromkeys(x.tensor for x in inside if isinstance(x, Row))
    return replace(backward, tiles=tiles, masked=masked), sorted(names)


def _is_query(e: Expr) -> bool:
    return isinstance(e, Row) and e.side is Side.QUERY


def _rewrite(p: TilePass, table: dict[Expr, Expr]) -> TilePass:
    rows = tuple(
        replace(
            r,
            products=tuple(
                replace(x, coefficient=substitute(x.coefficient, table)) for x in r.products
            ),
        )
        for r in p.rows
    )
    numbers = tuple(replace(n, value=substitute(n.value, table)) for n in p.numbers)
    stores = tuple(replace(s, value=substitute(s.value, table)) for s in p.stores)
    return replace(p, rows=rows, numbers=numbers, stores=stores)
