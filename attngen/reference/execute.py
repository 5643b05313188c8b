"""The definition of a spec: its formula evaluated as written, in float64, every score in memory.

Results come in the order they are returned. A row result of an attention has the axes of the first
query stream, in its order, with the feature axis replaced: `[B, Sq, Hq, D]` -> `[B, Sq, Hq, Dv]`.
A number (lse, an index) drops the feature axis. A row result of a recurrence has the axes of the
first stream that has every head; a state comes back final, in its declared layout. Indices are
int64.
"""

from __future__ import annotations

import torch

from attngen.ir.attention import Attention
from attngen.ir.recurrence import Recurrence
from attngen.reference.attend import holds_sum
from attngen.reference.attention import Precision, Run
from attngen.reference.recur import Walk
from attngen.reference.sizes import Arguments

# at all but the first a weight of 1 is rounded by 0.25% to 0.34% in bfloat16 (0.39% at most) and by
# 0.03% to 0.05% in float16 (0.05%)
SCALES = (1.0, 1.00342, 1.1206, 1.3716)


def reference(
    program: Attention | Recurrence,
    tensors: Arguments,
    dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, ...]:
    """Evaluate the formula; differentiable with respect to every floating tensor.

    tensors: by declared name, run-time scalars as numbers or 0-d tensors; a recurrence takes an
    initial state under the state's name. A masked key never matters, whatever it holds. A row
    without keys gives 0 in every result that holds a sum, and -inf (or the sink) in `logsumexp`.

    Raises: ValueError for a missing tensor or sizes that disagree.
    """
    if isinstance(program, Recurrence):
        return Walk(program, tensors, dtype).outputs()
    return Run(program, tensors, Precision(dtype)).outputs()


def matched(
    program: Attention | Recurrence,
    tensors: Arguments,
    dtype: torch.dtype,
    scale: float = 1.0,
) -> tuple[torch.Tensor, ...]:
    """The formula in a kernel's own precision: the baseline of the matched tolerance rule.

    Float32 throughout; weights and rows rounded to `dtype` before their product (nothing to round
    for float32); row results rounded once to `dtype`, numbers left in float32.
    scale: weights are rounded at this multiple of themselves (another draw of their errors).
    """
    if isinstance(program, Recurrence):
        found = Walk(program, tensors, torch.float32).outputs()
        kinds = [e.feature is not None for _, e, _ in program.outputs]
        kinds = [k and not _is_state(program, i) for i, k in enumerate(kinds)]
    else:
        product = None if dtype in (torch.float32, torch.float64) else dtype
        found = Run(program, tensors, Precision(torch.float32, product, scale)).outputs()
        kinds = [_is_sum_of_rows(program, i) for i in range(len(found))]
    return tuple(x.to(dtype) if row else x for x, row in zip(found, kinds, strict=True))


def typical(
    program: Attention | Recurrence,
    tensors: Arguments,
    dtype: torch.dtype,
    golden: tuple[torch.Tensor, ...],
) -> tuple[torch.Tensor, ...]:
    """A baseline with the error typical of a kernel's precision, rather than one draw of it.

    In a row with few keys all columns share the rounding of a few weights, so the error of one
    evaluation may be next to nothing by luck (a single key: its weight is 1, exactly). A kernel
    rounds weights before they are normalised, at a scale of its own. So the formula is evaluated at
    several scales; what comes back is golden plus the RMS of their errors, element by element.
    """
    if isinstance(program, Recurrence) or dtype in (torch.float32, torch.float64):
        return matched(program, tensors, dtype)
    draws = [matched(program, tensors, dtype, scale) for scale in SCALES]
    out = []
    for i, want in enumerate(golden):
        errors = torch.stack([(draw[i].double() - want.double()).square() for draw in draws])
        out.append(want.double() + errors.mean(0).sqrt() if want.is_floating_point() else want)
    return tuple(out)


def keep_mask(program: Attention, tensors: Arguments) -> torch.Tensor:
    """The pairs that count, sparsity included: bool [B, H, Sq, Skv], False past the lengths."""
    masks = list(Run(program, tensors, Precision(torch.float64)).masks())
    shape = [max(m.shape[i] for m in masks) for i in range(3)]
    out = torch.zeros(len(masks), *shape, dtype=torch.bool, device=masks[0].device)
    for b, mask in enumerate(masks):
        out[b, :, : mask.shape[1], : mask.shape[2]] = mask
    return out


def _is_state(program: Recurrence, number: int) -> bool:
    name = program.outputs[number][0]
    return any(state.name == name for state, _ in program.states)


def _is_sum_of_rows(program: Attention, number: int) -> bool:
    """A sum of rows is stored in the input's dtype; top lists and numbers are not."""
    _, e = program.outputs[number]
    return e.feature is not None and holds_sum(e)
