"""What the online pass produces: one pass over the keys as accumulators, then algebra on rows.

Theory and proof: docs/online_form.md. `M = sum_j e^{sum n_c s_c} t x` is a commutative monoid once
scaled by the running maxima, so the loop, the split-KV merge and the backward read this one record.
"""

from __future__ import annotations

from dataclasses import dataclass

from attngen.ir.expr import Expr, Reduced


@dataclass(frozen=True)
class Weights:
    """One running maximum and exponential: a distinct score.

    score: natural units, tile level; low, high: proven bounds (infinite if unknown);
    name: what the user called softmax(score), else "p", "p1", ...; stage: pass over keys, from 1.
    """

    name: str
    score: Expr
    low: float
    high: float
    stage: int


@dataclass(frozen=True)
class Accumulator:
    """sum over kept keys of prod exp(score_c - m_c)**n * scalar * row.

    weights: ((class index, power), ...), sorted; empty for an unnormalised sum.
    scalar: tile-level number (Const 1 for none); row: key-level row, or None for a number.
    """

    name: str
    weights: tuple[tuple[int, int], ...]
    scalar: Expr
    row: Expr | None
    stage: int


@dataclass(frozen=True)
class TopList:
    """The `count` largest scores of a row with their indices."""

    name: str
    score: Expr
    count: int
    stage: int


@dataclass(frozen=True)
class OnlinePlan:
    """Everything the loop over keys needs.

    outputs: (name, expression over rows): Reduced nodes, row streams, loads; no key axis left.
    moments: Reduced("moment", accumulator, norms, width) nodes used by outputs and later passes:
      value = A * exp(sum n_c m_c - sum norms), 0 on an empty row; norms are Reduced("lse", c) or
      `logaddexp(Reduced("lse", c), sink)`.
    notes: why a second pass is needed, in words.
    guarded: outputs whose expression tests for a row without keys, because it would not be 0 there.
    """

    mask: Expr | None
    classes: tuple[Weights, ...]
    accumulators: tuple[Accumulator, ...]
    tops: tuple[TopList, ...]
    moments: tuple[Reduced, ...]
    outputs: tuple[tuple[str, Expr], ...]
    notes: tuple[str, ...] = ()
    guarded: tuple[str, ...] = ()

    @property
    def stages(self) -> int:
        """Passes over the keys."""
        stages = [c.stage for c in self.classes]
        stages += [a.stage for a in self.accumulators] + [t.stage for t in self.tops]
        return max(stages, default=0)
