"""Results of calls with a zero in their shape: no launch, the definition gives the values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from attngen.ir.attention import Attention
from attngen.ir.expr import Expr, Sum, Top
from attngen.ir.walk import walk
from attngen.runtime.bind import parameters, torch_dtype
from attngen.runtime.checks import Call


def empty_results(attention: Attention, call: Call, values: Sequence[Any]) -> tuple[Any, ...]:
    """Rows without keys: 0 for sums over keys, -inf (or the sink) for lse; else just the shapes."""
    if 0 not in (call.q_len, call.heads, call.batch):
        return _without_keys(attention, call, values)
    return tuple(_nothing(attention, call, values, e) for _, e in attention.outputs)


def _without_keys(attention: Attention, call: Call, values: Sequence[Any]) -> tuple[Any, ...]:
    from attngen.reference.execute import matched  # noqa: PLC0415 - rarely needed

    names = (tensor.name for tensor in parameters(attention))
    half = getattr(torch, torch_dtype(call.half))
    results = matched(attention, dict(zip(names, values, strict=True)), half)
    return tuple(results)


def result_shape(
    attention: Attention, call: Call, values: Sequence[Any], e: Expr
) -> tuple[list[int], torch.dtype, torch.device]:
    """Shape (of the first query stream, with its own width), dtype and device of a result."""
    declared = parameters(attention)
    place = next((i for i, t in enumerate(declared) if t.role == "query"), 0)
    tensor, query = declared[place], values[place]
    shape = [
        size for axis, size in zip(tensor.axes, query.shape, strict=True) if axis.role != "feature"
    ]
    if e.feature is not None:
        width = e.feature if isinstance(e.feature, int) else call.sizes[e.feature]
        shape.append(width)
    dtypes = {"half": query.dtype, "float32": torch.float32, "int64": torch.int64}
    return shape, dtypes[result_dtype(e)], query.device


def _nothing(attention: Attention, call: Call, values: Sequence[Any], e: Expr) -> torch.Tensor:
    shape, dtype, device = result_shape(attention, call, values, e)
    return torch.empty(shape, dtype=dtype, device=device)


def result_dtype(e: Expr) -> str:
    """Of a result: "half" (that of the queries), "float32" or "int64"."""
    if e.kind == "int":
        return "int64"
    if e.feature is None:
        return "float32"
    sums = any(isinstance(x, Sum) for x in walk(e))
    return "half" if sums and not any(isinstance(x, Top) for x in walk(e)) else "float32"
