"""Mends Triton's interpreter where it is wrong, so that CPU tensors give what the GPU gives.

Triton 3.6 to 3.7 keep bfloat16 as bit patterns in a uint16 array. `tl.dot` multiplies the patterns
as integers, and a conversion from float32 drops the low bits instead of rounding to nearest even as
the hardware does. The product of two bfloat16 numbers is exact in float32, so operands are widened.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers of bfloat16 patterns."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def round_to_bfloat16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Patterns of the nearest bfloat16 numbers, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded >> 16).astype(np.uint16)


def mend_interpreter() -> None:
    """Make bfloat16 products and roundings right; does nothing the second time."""
    from triton import language as tl  # noqa: PLC0415 - only when kernels are interpreted
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle  # noqa: PLC0415

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl
    if getattr(dot, "mended", False):
        return

    def widen(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle(widen_bfloat16(x.data), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widen(a), widen(b), *rest)  # type: ignore[no-untyped-call] # untyped in its library

    def cast_impl(self: Any, source: Any, kind: Any) -> Any:
        pair = (source.dtype.scalar, kind.scalar)
        if pair == (tl.float32, tl.bfloat16):
            return TensorHandle(round_to_bfloat16(source.data), tl.bfloat16)
        if pair == (tl.bfloat16, tl.float32):
            return TensorHandle(widen_bfloat16(source.data), tl.float32)
        return cast(self, source, kind)  # type: ignore[no-untyped-call] # untyped in its library

    create_dot.mended = True  # type: ignore[attr-defined] # untyped in its library
    InterpreterBuilder.create_dot = create_dot  # type: ignore[method-assign] # untyped in its library
    InterpreterBuilder.cast_impl = cast_impl  # type: ignore[method-assign] # untyped in its library
