"""What the mask pass produces: loop ranges per tile, full ranges, row limits, a tile test, facts.

Theory: docs/bounds.md. Names in the index expressions: q, k (one position); a query tile is
[q0, q1) with q1 <= q_len, a key tile [k0, k1) with k1 <= kv_len; q_len, kv_len, b, h, h_kv and the
run-time scalars of the spec. When the lengths are equal by declaration only kv_len appears.
"""

from __future__ import annotations

from dataclasses import dataclass

from attngen.ir.index import Formula, Poly


@dataclass(frozen=True)
class Range:
    """Half-open range [lo, hi) of the loop variable; empty when hi <= lo."""

    lo: Poly
    hi: Poly


@dataclass(frozen=True)
class RowClause:
    """One clause for the mask code of an element: guard and lo <= x < hi and rest.

    x is the loop variable; lo, hi and guard depend on the row (the other variable) and scalars
    only, so they are computed before the loop; rest: leftovers of this clause. The mask is the or
    of all clauses.
    """

    lo: Poly
    hi: Poly
    guard: Formula
    rest: Formula


@dataclass(frozen=True)
class Direction:
    """One direction: the loop variable ("k": keys for a query tile; "q": queries for a key tile).

    outer: union of at most three ranges that holds every kept position of the tile;
    full: ranges in which every position is kept by every row of the tile (within the length);
    row: limits of one row (exact without leftovers); clauses: the same as code per element;
    leftovers: conditions no bound could be derived from (tested per element);
    hulled: number of ranges before they were replaced by their hull, 0 if none were.
    """

    loop: str
    outer: tuple[Range, ...]
    full: tuple[Range, ...]
    row: tuple[Range, ...]
    leftovers: tuple[Formula, ...]
    hulled: int = 0
    clauses: tuple[RowClause, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether a row keeps exactly the union of its ranges."""
        return not self.leftovers


@dataclass(frozen=True)
class MaskPlan:
    """The analysed mask.

    formula: the mask in negation normal form (index.TRUE for none);
    forward: keys over a query tile; transposed: queries over a key tile;
    may, must: tile test over q0 q1 k0 k1 (some / every element kept);
    never_empty: condition on scalars under which each row keeps a key (index.TRUE: always);
    needs: divisors that must be >= 1 at launch: ranges *and* row limits rely on it;
    notes: what was given up and why, in words;
    lone_scalars: scalars that only ever stand alone, with coefficient 1 or -1, beside positions and
    constants: clamping them to +-2**30 at the call changes nothing and keeps bounds inside int32.
    """

    formula: Formula
    forward: Direction
    transposed: Direction
    may: Formula
    must: Formula
    never_empty: Formula
    needs: tuple[Poly, ...]
    notes: tuple[str, ...] = ()
    lone_scalars: tuple[str, ...] = ()
