"""When a kernel's result counts as right: the matched rule.

A result is held against the formula in float64 (golden), its error against that of the formula in
the kernel's own precision (baseline, `attngen.reference.execute.matched`). A mean hides one wrong
row and a maximum hides a small bias, so the rule looks at the maximum, the RMS, each row and each
element. `tests/laws/test_tolerance.py` tests the rule itself, on fifteen injected bugs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

EXACT = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Limits:
    """Factors over the baseline's error, and the distance of one element in ulp."""

    maximum: float = 2.0
    rms: float = 1.25
    row: float = 3.0
    element: float = 8.0


LIMITS = {
    "out": Limits(),
    "grad": Limits(maximum=3.0, rms=1.5, row=4.0, element=16.0),
}
LSE_HALF, LSE_EXACT = 1e-3, 1e-5
EXACT_RELATIVE = 1e-5
FEW = 4.0  # slack for small samples: a factor f becomes f * (1 + FEW / sqrt(elements))


@dataclass(frozen=True)
class Verdict:
    """The judgement: figures by name (errors, ratios), and for a failure what failed and where."""

    ok: bool
    figures: dict[str, float] = field(default_factory=dict)
    message: str = ""

    def __bool__(self) -> bool:
        return self.ok


def compare(
    result: Tensor,
    golden: Tensor,
    baseline: Tensor,
    kind: str = "out",
    half: torch.dtype | None = None,
) -> Verdict:
    """Judge one floating result.

    kind: "out" or "grad" (last axis = features), "number" (no feature axis) or "lse".
    half: dtype of the inputs; that of the result if not given. With float32 inputs the dots are
    IEEE, and each element has to agree to 1e-5 of max(|golden|, row RMS).
    """
    if result.shape != golden.shape:
        return Verdict(False, {}, f"shape {tuple(result.shape)}, expected {tuple(golden.shape)}")
    if result.numel() == 0:
        return Verdict(True)
    precision = result.dtype if half is None else half
    got, want, base = (x.detach().double() for x in (result, golden, baseline))
    odd = _first(~_same_kind(got, want))
    if odd is not None:
        return Verdict(False, {}, f"element {odd}: got {_at(got, odd)}, expected {_at(want, odd)}")
    plain = torch.isfinite(want)
    got, want, base = (torch.where(plain, x, torch.zeros_like(x)) for x in (got, want, base))
    if kind == "lse":
        return _judge_lse(got, want, base, precision)
    if kind == "number" or precision in EXACT:
        return _judge_exact(got, want, base, rows=kind != "number")
    return _judge_matched(got, want, base, LIMITS[kind], result.dtype)


def compare_indices(result: Tensor, golden: Tensor, scores: Tensor, rounded: Tensor) -> Verdict:
    """Judge indices of `argmin`, `argmax`, `topk`.

    result, golden: [..., n] slots (n = 1: the axis may be missing); scores: [..., keys] float64,
    -inf where masked; rounded: the same in float32. An index is right if it is golden's, or if its
    score is within four times the largest float32 error of its row: then the two tie within
    rounding. Of keys that tie exactly the lowest comes first. -1 must be -1, and an index may stand
    only once in a row.
    """
    if result.shape != golden.shape:
        return Verdict(False, {}, f"shape {tuple(result.shape)}, expected {tuple(golden.shape)}")
    if result.dim() < scores.dim():
        result, golden = result.unsqueeze(-1), golden.unsqueeze(-1)
    got, want = result.long(), golden.long()
    error = torch.nan_to_num((rounded.double() - scores).abs(), 0.0, 0.0, 0.0)
    slack = 4 * error.amax(-1, keepdim=True) if scores.shape[-1] else error.new_zeros(())
    in_range = (got >= 0) & (got < scores.shape[-1]) & (want >= 0)
    gap = (_gather(scores, got, in_range) - _gather(scores, want, in_range)).abs()
    fine = (got == want) | (in_range & (gap <= slack))
    twice = (got.unsqueeze(-1) == got.unsqueeze(-2)).sum(-1) > 1
    fine &= ~(twice & (got >= 0))
    fine &= (got == want) | ~_passed_over(got, scores, rounded, in_range)
    figures = {"different": float((got != want).sum()), "wrong": float((~fine).sum())}
    bad = _first(~fine)
    if bad is None:
        return Verdict(True, figures)
    where = f"row {bad[:-1]} slot {bad[-1]}"
    found = f"got index {_at(got, bad)}, expected {_at(want, bad)}"
    return Verdict(False, figures, f"{where}: {found}, scores apart by {_at(gap, bad):.3g}")


def ulp(magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance between neighbours of that magnitude in a dtype (the smallest normal at least)."""
    limits = torch.finfo(dtype)
    _, exponent = torch.frexp(magnitude.double().clamp(min=limits.tiny))
    return torch.ldexp(torch.full_like(magnitude, limits.eps, dtype=torch.float64), exponent - 1)


def _judge_matched(
    got: Tensor, want: Tensor, base: Tensor, limits: Limits, dtype: torch.dtype
) -> Verdict:
    """The four tests of the matched rule; the first that fails is named."""
    error, error_0 = (got - want).abs(), (base - want).abs()
    scale = torch.maximum(want.abs(), _rms(want, -1))
    step = ulp(scale, dtype)
    row, row_0 = _rms(error, -1), _rms(error_0, -1)
    few = 1 + FEW / want.numel() ** 0.5
    few_row = 1 + FEW / want.numel() ** 0.5 / 2
    ratios: dict[str, tuple[Tensor, Tensor, float]] = {
        "maximum": (error, error_0.max() + step / 8, limits.maximum * few),
        "rms": (_rms(error), _rms(error_0) + _rms(step) / 32, limits.rms * few),
        "row rms": (row, row_0 + step.amin(-1, keepdim=True) / 12, limits.row * few_row),
        # where terms cancel, the precision itself is coarser than an ulp of what is left
        "element": (error, torch.maximum(step, row_0 / 2), limits.element),
    }
    return _verdict(ratios, got, want)


def _judge_exact(got: Tensor, want: Tensor, base: Tensor, rows: bool) -> Verdict:
    """Float32 throughout: each element to 1e-5, or four times the baseline's largest error."""
    error, error_0 = (got - want).abs(), (base - want).abs()
    scale = torch.maximum(want.abs(), _rms(want, -1)) if rows else want.abs()
    floor = EXACT_RELATIVE * scale + 2 * ulp(scale, torch.float32)
    return _verdict({"element": (error, torch.maximum(floor, 4 * error_0.max()), 1.0)}, got, want)


def _judge_lse(got: Tensor, want: Tensor, base: Tensor, precision: torch.dtype) -> Verdict:
    """Absolute, as a difference of logarithms is a relative error of the sum."""
    bound = LSE_EXACT if precision in EXACT else LSE_HALF
    error, error_0 = (got - want).abs(), (base - want).abs()
    allowed = torch.maximum(bound + 2 * ulp(want.abs(), torch.float32), 2 * error_0.max())
    return _verdict({"lse": (error, allowed, 1.0)}, got, want)


def _verdict(tests: dict[str, tuple[Tensor, Tensor, float]], got: Tensor, want: Tensor) -> Verdict:
    figures: dict[str, float] = {"max error": float((got - want).abs().max())}
    message = ""
    for name, (error, unit, limit) in tests.items():
        ratio = error / unit
        ratio = torch.where(error == 0, torch.zeros_like(ratio), ratio)
        figures[name] = float(ratio.max())
        if message or not bool((ratio > limit).any()):
            continue
        message = f"{name}: {float(ratio.max()):.3g} x the unit, limit {limit:.3g}"
        message += f"; worst {_place(name, ratio, error, got, want)}"
    return Verdict(not message, figures, message)


def _place(name: str, ratio: Tensor, error: Tensor, got: Tensor, want: Tensor) -> str:
    """The row or element a failure is worst at, in words."""
    pick: Callable[[Tensor], int] = lambda x: int(x.argmax())  # noqa: E731
    if ratio.shape == want.shape:
        where = _unravel(pick(ratio), want.shape)
    else:
        whole = ratio.expand_as(want) * (got - want).abs()
        where = _unravel(pick(whole), want.shape)
    values = f"got {_at(got, where):.6g}, expected {_at(want, where):.6g}"
    if name == "row rms":
        row_error = float(error.expand_as(want)[where])
        return f"row {where[:-1]}: RMS error {row_error:.3g}; its worst element {where}: {values}"
    return f"element {where}: {values}"


def _same_kind(got: Tensor, want: Tensor) -> Tensor:
    """Finite where golden is, else the same infinity or NaN."""
    finite = torch.isfinite(want) & torch.isfinite(got)
    return finite | (torch.isnan(want) & torch.isnan(got)) | (torch.isinf(want) & (got == want))


def _rms(x: Tensor, axis: int | None = None) -> Tensor:
    square = x.double().square()
    return square.mean().sqrt() if axis is None else square.mean(axis, keepdim=True).sqrt()


def _gather(scores: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    if scores.shape[-1] == 0:
        return torch.zeros_like(index, dtype=torch.float64)
    return scores.gather(-1, torch.where(valid, index, torch.zeros_like(index)))


def _passed_over(got: Tensor, scores: Tensor, rounded: Tensor, valid: Tensor) -> Tensor:
    """Whether a lower key with exactly the same score was left for later or out."""
    if scores.shape[-1] == 0:
        return torch.zeros_like(valid)
    safe = torch.where(valid, got, torch.zeros_like(got))
    taken = torch.zeros_like(scores, dtype=torch.bool)
    keys = torch.arange(scores.shape[-1], device=scores.device)
    slots = []
    for slot in range(got.shape[-1]):
        index = safe[..., slot : slot + 1]
        ties = (scores == scores.gather(-1, index)) & (rounded == rounded.gather(-1, index))
        slots.append((ties & (keys < index) & ~taken).any(-1) & valid[..., slot])
        taken = taken | (keys == index)
    return torch.stack(slots, -1)


def _first(bad: Tensor) -> tuple[int, ...] | None:
    return _unravel(int(bad.flatten().int().argmax()), bad.shape) if bool(bad.any()) else None


def _unravel(flat: int, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), shape))


def _at(x: Tensor, where: tuple[int, ...]) -> float:
    return float(x[where])
