"""Mends Triton's interpreter where it is wrong, so that CPU tensors give what the GPU gives.

Triton 3.6 and 3.7 keep bfloat16 as its bit pattern in a uint16 array, and `tl.dot` multiplies the
patterns as integers. The product of two bfloat16 numbers is exact in float32, so the operands are
widened first; nothing else changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def mend_interpreter() -> None:
    """Make `tl.dot` of bfloat16 operands right; does nothing the second time."""
    from triton import language as tl  # noqa: PLC0415 - only when kernels are interpreted
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle  # noqa: PLC0415

    plain = InterpreterBuilder.create_dot
    if getattr(plain, "widens_bfloat16", False):
        return

    def widen(x: Any) -> Any:
        if x.dtype.scalar is not tl.bfloat16 and x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return plain(self, widen(a), widen(b), *rest)

    create_dot.widens_bfloat16 = True  # type: ignore[attr-defined]
    InterpreterBuilder.create_dot = create_dot
