"""Is a row's output right? Asked before anything is timed."""

from __future__ import annotations

import torch
from cases import Case, mods


class WrongResultError(Exception):
    """The kernel of a row is wrong; the row is not timed."""


def check(case: Case, call, values, heads: int = 2) -> float:
    """Runs `call` into poisoned memory and compares some heads with a float64 dense formula.

    Returns the largest error over the error that rounding alone makes. Raises WrongResultError
    for unwritten or zero rows, or an error above twice that of rounding (RMS: 1.25 times).
    """
    out = poisoned(call)
    if not bool(torch.isfinite(out).all()):
        raise WrongResultError(f"{int((~torch.isfinite(out)).sum())} elements not written or NaN")
    if bool((out == 0).all(-1).any()):
        raise WrongResultError("some output rows are all zero")
    b, h = case.shape[:2]
    worst = 0.0
    for step in range(heads):
        at = (b - 1 - step % b, (h - 1) * step // max(1, heads - 1))
        worst = max(worst, _compare(case, values, out[at], at))
    return worst


def poisoned(call) -> torch.Tensor:
    """The result of `call` when new memory is filled with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        result = call()
    finally:
        torch.use_deterministic_algorithms(False)
    return result[0] if isinstance(result, tuple) else result


def _compare(case: Case, values, out: torch.Tensor, at: tuple[int, int]) -> float:
    exact, rounded = _dense(case, values, at)
    error, unavoidable = (out.double() - exact).abs(), (rounded.double() - exact).abs()
    if error.square().mean().sqrt() > 1.25 * unavoidable.square().mean().sqrt():
        raise WrongResultError(f"head {at}: RMS error {error.square().mean().sqrt():.1e}")
    ratio = float(error.max() / unavoidable.max())
    if ratio > 2:
        raise WrongResultError(f"head {at}: largest error {error.max():.1e}, {ratio:.1f}x rounding")
    return ratio


def _dense(case: Case, values, at: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """One head in float64, and in float32 with weights rounded as the kernel rounds them."""
    b, h = at
    q, k, v = (
        values["q"][b, h],
        *(values[x][b, h // (case.shape[1] // case.shape[2])] for x in "kv"),
    )
    score_mod, mask_mod = mods(case, str(q.device))
    i = torch.arange(q.shape[0], device=q.device)[:, None]
    j = torch.arange(k.shape[0], device=q.device)[None, :]
    results = []
    for dtype in (torch.float64, torch.float32):
        s = q.to(dtype) @ k.to(dtype).T * q.shape[1] ** -0.5
        s = score_mod(s, b, torch.tensor(h, device=q.device), i, j) if score_mod else s
        s = s.masked_fill(~mask_mod(b, h, i, j), float("-inf")) if mask_mod else s
        p = torch.exp(s - s.amax(1, keepdim=True))
        total = p.sum(1, keepdim=True)
        p = p.to(v.dtype) if dtype is torch.float32 else p
        results.append(p.to(dtype) @ v.to(dtype) / total)
    return results[0], results[1].to(v.dtype)
