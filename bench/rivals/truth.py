"""Is a system's result right? Asked before it is timed, on one head, against float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rivals.formulas import dense
from rivals.rows import Row, Values

RESULT, GRADIENT = 1e-2, 2e-2  # relative RMS error; bfloat16 operands and results give 2e-3 to 6e-3
LONGEST = 16384  # above it a head's scores with their gradients are more than a card holds


class WrongResultError(Exception):
    """The system computes something else; it is not timed on this row."""


class Truth:
    """One head of a row in float32: its result and the gradients of its streams."""

    def __init__(self, row: Row, values: Values, seed: torch.Tensor) -> None:
        """seed: gradient of the result, [B, H, S, features]."""
        self.row, self.at = row, (row.batch - 1, row.heads - 1)
        b, h = self.at
        head = {n: values[n][b, h].float().requires_grad_() for n in row.streams}
        others = {n: v for n, v in values.items() if n not in head}
        if "g" in others:
            others["g"] = others["g"][b, h].float()
        self.gradients: tuple[torch.Tensor, ...] = ()
        with torch.set_grad_enabled(row.length <= LONGEST):
            out = dense(row, {**others, **head}, b, h)
        if row.length <= LONGEST:
            self.gradients = torch.autograd.grad(out, list(head.values()), seed[b, h].float())
        self.result = out.detach()

    def result_error(self, out: torch.Tensor) -> float:
        """Relative RMS error of a result [B, H, S, features]; WrongResultError above the limit."""
        if not bool(torch.isfinite(out).all()):
            raise WrongResultError("the result is not finite everywhere")
        return _held("the result", out[self.at], self.result, RESULT)

    def gradient_error(self, found: Sequence[torch.Tensor]) -> float:
        """The largest error of the gradients of the streams, in the row's order."""
        pairs = zip(self.row.streams, found, self.gradients, strict=False)
        return max((_held(f"d{n}", g[self.at], e, GRADIENT) for n, g, e in pairs), default=0.0)


def _held(name: str, found: torch.Tensor, exact: torch.Tensor, limit: float) -> float:
    error = float((found.float() - exact).norm() / exact.norm())
    if not error < limit:
        raise WrongResultError(f"{name}: relative error {error:.1e}")
    return error
