"""Is what a kernel returned right? Every result of a spec against the formula, by its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from attngen.ir.attention import Attention
from attngen.ir.expr import Expr, LogSumExp, Top
from attngen.ir.walk import walk
from attngen.reference.execute import matched, reference
from attngen.reference.tolerance import Verdict, compare, compare_indices

Argument = torch.Tensor | int | float | bool


@dataclass(frozen=True)
class Judged:
    """The verdict on one named result."""

    name: str
    verdict: Verdict

    @property
    def error(self) -> float:
        """Largest absolute error (of indices: how many are wrong)."""
        figures = self.verdict.figures
        return figures.get("max error", figures.get("wrong", 0.0))


def judge(
    program: Attention,
    tensors: Mapping[str, Argument],
    results: Sequence[torch.Tensor],
    half: torch.dtype,
) -> tuple[Judged, ...]:
    """Compare the results of a call, in the order they are returned, with the formula.

    half: dtype that stood for `half`. Indices may differ from the formula's where scores tie within
    the rounding of float32.
    """
    golden = reference(program, tensors)
    baseline = matched(program, tensors, half)
    judged = []
    for (name, expression), got, want, base in zip(
        program.outputs, results, golden, baseline, strict=True
    ):
        top = index_of(expression)
        if top is None:
            verdict = compare(got, want, base, kind_of(expression), half)
        else:
            verdict = compare_indices(got, want, *all_scores(program, tensors, top))
        judged.append(Judged(name, verdict))
    return tuple(judged)


def kind_of(expression: Expr) -> str:
    """The kind of tolerance a result has: "out", "lse" or "number"."""
    if isinstance(expression, LogSumExp):
        return "lse"
    if expression.feature is None or any(isinstance(e, Top) for e in walk(expression)):
        return "number"
    return "out"


def index_of(expression: Expr) -> Top | None:
    """The top list whose indices a result is, if it is one."""
    indices = [e for e in walk(expression) if isinstance(e, Top) and e.part == "indices"]
    return indices[0] if indices and expression.kind == "int" else None


def all_scores(
    program: Attention, tensors: Mapping[str, Argument], top: Top
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of every key [..., keys] in float64 and in float32, -inf where masked.

    Read off the formula itself: a top list as long as the keys is the scores in order.
    """
    count = max(2, key_count(program, tensors))
    parts = tuple((part, Top(top.score, count, part)) for part in ("values", "indices"))
    everything = replace(program, outputs=parts)
    scattered = []
    for dtype in (torch.float64, torch.float32):
        values, indices = reference(everything, tensors, dtype)
        there = indices >= 0
        row = torch.full_like(values, float("-inf"))
        # empty slots hold -inf: they are sent where nothing is lost
        last = torch.where(there, indices, torch.full_like(indices, count))
        row = torch.cat([row, row[..., :1]], -1)
        scattered.append(row.scatter(-1, last, values)[..., :count])
    return scattered[0], scattered[1]


def key_count(program: Attention, tensors: Mapping[str, Argument]) -> int:
    """Length of the key positions in memory."""
    for declared in program.tensors:
        position = declared.axis("position")
        value = tensors.get(declared.name)
        if declared.role == "key" and position is not None and isinstance(value, torch.Tensor):
            return int(value.shape[position])
    return 1
