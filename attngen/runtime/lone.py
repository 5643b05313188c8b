"""Which run-time scalars only bound positions, so that huge values may be drawn in."""

from __future__ import annotations

from collections.abc import Iterator

from attngen.ir.attention import Attention
from attngen.ir.expr import COMPARE, Binary, Const, Expr, Index, Load, children
from attngen.ir.walk import walk


def lone_scalars(attention: Attention) -> frozenset[str]:
    """Whole-number scalars that only shift one side of comparisons of positions in the mask.

    In `q_pos - kv_idx < window` any window of 2**30 or more keeps the same elements, because
    positions are smaller; with a factor, a division or a second scalar that would not hold.
    """
    outputs = [e for _, e in attention.outputs]
    elsewhere = {name for e in walk(*outputs) if (name := _scalar(e))}
    mask = [attention.mask] if attention.mask is not None else []
    good: set[str] = set()
    bad = set(elsewhere)
    for e in walk(*mask):
        if isinstance(e, Binary) and e.op in COMPARE:
            mentioned = {name for x in walk(e) if (name := _scalar(x))}
            shifts = [*_terms(e.a), *_terms(e.b)]
            simple = all(isinstance(x, Const | Index) or _scalar(x) for x in shifts)
            (good if simple and len(mentioned) == 1 else bad).update(mentioned)
    whole = {t.name for t in attention.tensors if t.dtype.is_integer}
    return frozenset((good - bad) & whole)


def _terms(e: Expr) -> Iterator[Expr]:
    """The terms of a sum, through factors of -1."""
    match e:
        case Binary(op="add", a=a, b=b):
            yield from _terms(a)
            yield from _terms(b)
        case Binary(op="mul", a=Const(value=-1), b=b):
            yield from _terms(b)
        case _:
            yield e


def _scalar(e: Expr) -> str | None:
    return e.tensor if isinstance(e, Load) and not children(e) else None
