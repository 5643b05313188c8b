"""Run-time scalars: numbers or tensors without axes, checked, clamped where that is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.core.dtype import Dtype
from attngen.ir.attention import Tensor
from attngen.runtime.bind import expectation, found
from attngen.runtime.interface import Interface

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


def scalars(interface: Interface) -> dict[str, Scalar]:
    """The run-time scalars of a spec by name."""
    return {t.name: Scalar(t, t.name in interface.lone) for t in interface.tensors if t.is_scalar}
