"""Judges every result of a kernel against the reference: which rule holds for which result."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention
from attngen.ir.expr import Expr, LogSumExp, Top
from attngen.ir.recurrence import Recurrence
from attngen.reference.attend import holds_sum
from attngen.reference.attention import Precision, Run
from attngen.reference.execute import reference, typical
from attngen.reference.sizes import Arguments
from attngen.reference.tolerance import Verdict, compare, compare_indices


def judge(
    program: Attention | Recurrence,
    tensors: Arguments,
    results: Sequence[torch.Tensor],
    half: torch.dtype,
) -> dict[str, Verdict]:
    """A verdict for each result by name, in order.

    results: what the kernel gave, in the reference's layout. half: what `half` is this time; the
    rule follows the dtype of the first stream (float32 streams: IEEE dots, the exact rule).
    Indices are held against the scores they chose from, so a tie within rounding is no error.
    """
    precision = stream_dtype(program, half)
    golden = reference(program, tensors)
    baseline = typical(program, tensors, precision, golden)
    verdicts: dict[str, Verdict] = {}
    for number, (name, e) in enumerate((output[0], output[1]) for output in program.outputs):
        got = results[number].to(golden[number].device)
        if isinstance(program, Attention) and not got.is_floating_point():
            verdicts[name] = _judge_indices(program, tensors, e, got, golden[number])
        else:
            kind = "out" if isinstance(program, Recurrence) else kind_of(e)
            verdicts[name] = compare(got, golden[number], baseline[number], kind, precision)
    return verdicts


def stream_dtype(program: Attention | Recurrence, half: torch.dtype) -> torch.dtype:
    """The dtype a kernel multiplies in and stores rows in: that of the first stream."""
    first = next(t for t in program.tensors if t.is_stream)
    known = {Dtype.F32: torch.float32, Dtype.F64: torch.float64}
    known |= {Dtype.F16: torch.float16, Dtype.BF16: torch.bfloat16}
    return known.get(first.dtype, half)


def kind_of(e: Expr) -> str:
    """The rule for a floating result: rows of sums, logarithms of sums, any other number."""
    if isinstance(e, LogSumExp):
        return "lse"
    return "out" if e.feature is not None and holds_sum(e) else "number"


def _judge_indices(
    program: Attention, tensors: Arguments, e: Expr, got: torch.Tensor, golden: torch.Tensor
) -> Verdict:
    if not isinstance(e, Top):
        same = torch.equal(got.long(), golden.long())
        return Verdict(same, {}, "" if same else "whole numbers differ")
    exact, rounded = (
        Run(program, tensors, Precision(dtype)).scores(e.score)
        for dtype in (torch.float64, torch.float32)
    )
    return compare_indices(got, golden, exact, rounded)
