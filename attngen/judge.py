"""Is what a kernel returned right? Every result of a spec against the formula, by its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from attngen.ir.attention import Attention
from attngen.reference import judge as by_reference
from attngen.reference.tolerance import Verdict

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

    half: dtype that stood for `half`; the rule follows the dtype of the first stream. Indices may
    differ from the formula's where scores tie within the rounding of float32.
    """
    verdicts = by_reference.judge(program, tensors, results, half)
    return tuple(Judged(name, verdict) for name, verdict in verdicts.items())
