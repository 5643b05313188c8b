"""How many tiles and elements a mask plan visits, exactly, through the lowering the kernels use.

In the kernel: ranges are put in order and made disjoint in tile units, so each tile is visited
once; then per range three loops: masked, unmasked (inside a full range), masked. Used by `explain`,
`bench` and `draw`; O(tiles) and O(rows) of plain Python.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from attngen.ir.index_eval import Env, evaluate
from attngen.ir.maskplan import Direction, MaskPlan, Range

Span: TypeAlias = tuple[int, int]  # [first, end)
Loop: TypeAlias = tuple[int, int, bool]  # [first tile, end tile), masked
TileClass: TypeAlias = tuple[int, int, Literal["partial", "full"]]


def disjoint(spans: Iterable[Span]) -> list[Span]:
    """Sort by start and join what touches; empty spans vanish."""
    out: list[Span] = []
    for lo, hi in sorted(span for span in spans if span[0] < span[1]):
        if out and lo <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], hi)
        else:
            out.append((lo, hi))
    return out


def tile_loops(outer: Iterable[Span], full: Iterable[Span], width: int) -> list[Loop]:
    """Loops in order, each tile once; an unmasked tile lies inside one full range."""
    whole = [(-(-lo // width), hi // width) for lo, hi in disjoint(full)]
    visited = disjoint((lo // width, -(-hi // width)) for lo, hi in disjoint(outer))
    out: list[Loop] = []
    for start, end in visited:
        first = start
        for full_lo, full_hi in whole:
            lo, hi = max(first, full_lo), min(end, full_hi)
            if lo < hi:
                out += [(first, lo, True), (lo, hi, False)]
                first = hi
        out.append((first, end, True))
    return [loop for loop in out if loop[0] < loop[1]]


def loops_of_tile(direction: Direction, env: Env, width: int) -> list[Loop]:
    """The loops of one tile; env holds q0 q1 (or k0 k1), the lengths, scalars and tensors."""
    return tile_loops(_spans(direction.outer, env), _spans(direction.full, env), width)


def tile_classes(
    plan: MaskPlan, env: Env, q_len: int, kv_len: int, *, block_q: int, block_k: int
) -> list[TileClass]:
    """Visited tiles (query tile, key tile, class) of one (b, h), in the order of the kernel.

    env: run-time scalars, b, h, h_kv, and tensors as nested sequences or functions of their
    indices.
    """
    whole: dict[str, Any] = {**env, "q_len": q_len, "kv_len": kv_len}
    out: list[TileClass] = []
    for tile in range(-(-q_len // block_q)):
        ends = {"q0": tile * block_q, "q1": min((tile + 1) * block_q, q_len)}
        for first, end, masked in loops_of_tile(plan.forward, whole | ends, block_k):
            out += [(tile, k, "partial" if masked else "full") for k in range(first, end)]
    return out


def kept_elements(plan: MaskPlan, env: Env, q_len: int, kv_len: int) -> int:
    """Kept (query, key) pairs of one (b, h): exact without leftovers, else an upper bound."""
    whole: dict[str, Any] = {**env, "q_len": q_len, "kv_len": kv_len}
    rows = (_spans(plan.forward.row, whole | {"q": q}) for q in range(q_len))
    return sum(hi - lo for row in rows for lo, hi in disjoint(row))


def _spans(ranges: Iterable[Range], env: Env) -> list[Span]:
    return [(evaluate(r.lo, env), evaluate(r.hi, env)) for r in ranges]
