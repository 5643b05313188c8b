"""Run-time scalars: numbers or tensors without axes, checked, clamped where that is exact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Tensor
from attngen.ir.expr import COMPARE, Binary, Const, Expr, Index, Load, children
from attngen.ir.walk import walk
from attngen.runtime.bind import expectation, found

FAR = 1 << 30  # no position comes near, and sums of two such numbers stay in 32 bits
RANGES = {Dtype.I8: 7, Dtype.I32: 31, Dtype.I64: 63}


@dataclass(frozen=True)
class Scalar:
    """One declared scalar; `clamp`: it only bounds positions, so beyond 2**30 nothing changes."""

    tensor: Tensor
    clamp: bool

    def convert(self, value: Any) -> int | float | bool:
        """The number to pass; CallError E503 not a number, E513 out of range or NaN."""
        if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
            value = value.item()  # of a tensor on the GPU: waits for it
        dtype = self.tensor.dtype
        if dtype is Dtype.BOOL:
            return bool(self._accept(value, isinstance(value, bool)))
        if dtype.is_float:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return self._real(self._accept(value, number))
        whole = isinstance(value, int) and not isinstance(value, bool)
        return self._whole(int(self._accept(value, whole)))

    def _accept(self, value: Any, fits: bool) -> Any:
        if fits:
            return value
        message = f"{self.tensor.name}: expected {expectation(self.tensor)}, found {found(value)}"
        raise CallError(Diagnostic("E503", message, help=f"pass {self.tensor.name} as a number"))

    def _real(self, value: int | float) -> float:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf if value > 0 else -math.inf
        if math.isnan(number):
            raise self._out_of_range("NaN", "pass a number")
        return number

    def _whole(self, value: int) -> int:
        if self.clamp:
            return max(-FAR, min(FAR, value))
        bound = 1 << RANGES[self.tensor.dtype]
        if not -bound <= value < bound:
            fix = f"pass a number from {-bound} to {bound - 1}"
            raise self._out_of_range(str(value)[:40], fix)
        return value

    def _out_of_range(self, text: str, fix: str) -> CallError:
        name, dtype = self.tensor.name, self.tensor.dtype.value
        return CallError(Diagnostic("E513", f"{name}: {text} is no {dtype} to work with", help=fix))


def scalars(attention: Attention) -> dict[str, Scalar]:
    """The run-time scalars of a spec by name."""
    lone = lone_scalars(attention)
    return {t.name: Scalar(t, t.name in lone) for t in attention.tensors if t.is_scalar}


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
