"""Gradients of a call held against float64 autograd of the formula: shared by the tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from attngen.ir.attention import Attention
from attngen.reference.execute import reference
from attngen.runtime.kernel import Kernel
from tests.differential.harness import call
from tests.differential.rounding import SINGLE, Rounding

DIFFERENTIABLE = (
    *("flash", "gemma2", "alibi_documents", "prefix_lm", "sinks_gated", "relative_bias"),
    *("forgetting", "sigmoid", "differential", "parallax", "mla", "varlen", "dropout"),
)
Tensors = Mapping[str, object]


def names(made: Kernel) -> list[str]:
    """What has a gradient."""
    return [made.declared[i].name for i in made.floats]


def leaves(made: Kernel, tensors: Tensors, dtype: torch.dtype | None = None) -> dict:
    """The arguments with new leaves that require a gradient; numbers become tensors."""
    out = dict(tensors)
    for name in names(made):
        value = torch.as_tensor(tensors[name]).detach()
        value = value.clone() if dtype is None else value.to(dtype)
        out[name] = value.requires_grad_()
    return out


def seeds(results: tuple[torch.Tensor, ...], seed: int = 0) -> list[torch.Tensor]:
    """A random gradient for each floating result, also where it is -inf."""
    maker = torch.Generator().manual_seed(seed)
    floating = [r for r in results if r.is_floating_point()]
    return [torch.randn(r.shape, generator=maker).to(r) for r in floating]


def differentiated(results, given: dict, wanted: list[str], incoming: list) -> list[torch.Tensor]:
    """Gradients of the named leaves; zeros where a result does not depend on one."""
    floating = [r for r in results if r.is_floating_point()]
    pairs = [(r, s) for r, s in zip(floating, incoming, strict=True) if r.requires_grad]
    if not pairs:
        return [torch.zeros_like(given[n]) for n in wanted]
    found = torch.autograd.grad(
        [r for r, _ in pairs],
        [given[n] for n in wanted],
        [s.to(r.dtype) for r, s in pairs],
        allow_unused=True,
        retain_graph=True,
    )
    return [
        torch.zeros_like(given[n]) if g is None else g for n, g in zip(wanted, found, strict=True)
    ]


def kernel_gradients(made: Kernel, tensors: Tensors) -> tuple[list[torch.Tensor], list]:
    """Gradients by the kernel, twice: they must be the same bits; and the seeds."""
    given = leaves(made, tensors)
    results = call(made, given)
    incoming = seeds(results)
    first = differentiated(results, given, names(made), incoming)
    again = differentiated(call(made, given), given, names(made), incoming)
    for name, one, two in zip(names(made), first, again, strict=True):
        assert torch.equal(one, two), f"{name}: two runs differ"
    return first, incoming


def expected(program: Attention, made: Kernel, tensors: Tensors, incoming: list) -> list:
    """By float64 autograd of the formula."""
    given = leaves(made, tensors, torch.float64)
    return differentiated(reference(program, given), given, names(made), incoming)


# Multiples of the unit that an element, the RMS of a row, and that of the whole gradient may reach;
# docs/backward.md derives them. FEW: a row of few terms, a tensor of few rows.
ELEMENT, ROW, WHOLE, FEW = 7.0, 5.0, 1.25, 3.0


def exceeded(got: torch.Tensor, want: torch.Tensor, unit: torch.Tensor) -> str:
    """What of a gradient is further from `want` than rounding explains, or nothing.

    unit: RMS of the error of each element, of the same shape. Rows are along the last axis.
    """
    if got.shape != want.shape:
        return f"shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    if not got.numel():
        return ""
    got, want, unit = (torch.atleast_1d(x.detach().cpu().double()) for x in (got, want, unit))
    if not bool(torch.isfinite(got).all()):
        return "not finite"
    row_unit = _rms(unit, -1)
    unit = torch.maximum(unit, row_unit)
    error = (got - want).abs()
    few = 1 + FEW / want[..., 0].numel() ** 0.5
    tests = (
        ("element", error, unit, ELEMENT),
        ("row", _rms(error, -1), row_unit, ROW),
        ("whole", _rms(error), _rms(unit), WHOLE * few),
    )
    for name, size, allowed, limit in tests:
        ratio = torch.where(size == 0, 0.0, size / allowed)
        if bool((ratio > limit).any()):
            at = int(ratio.argmax())
            found = f"{name} {at}: {float(ratio.max()):.3g} times the unit, limit {limit:.3g}"
            i = int((error * (ratio > limit)).argmax())
            where = tuple(int(x) for x in torch.unravel_index(torch.tensor(i), want.shape))
            return f"{found}; at {where} {float(got[where]):.6g}, expected {float(want[where]):.6g}"
    return ""


def _rms(x: torch.Tensor, axis: int | None = None) -> torch.Tensor:
    square = x.square()
    return square.mean().sqrt() if axis is None else square.mean(axis, keepdim=True).sqrt()


def units(
    made: Kernel, tensors: Tensors, incoming: list, half: torch.dtype, golden: list
) -> list[torch.Tensor]:
    """The unit of each gradient: RMS error of the roundings of its plan, and of float32 itself."""
    if any(0 in torch.as_tensor(tensors[t.name]).shape for t in made.declared):
        return [torch.zeros_like(g, device="cpu") for g in golden]
    found = Rounding(made, dict(tensors), incoming, half).errors(names(made))
    return [torch.hypot(e, _least(g)) for e, g in zip(found, golden, strict=True)]


def _least(golden: torch.Tensor) -> torch.Tensor:
    """Functions of float32 are right to an ulp or two, whatever the plan."""
    x = torch.atleast_1d(golden.detach().cpu())
    size = torch.maximum(x.abs(), _rms(x, -1)) if x.numel() else x
    return (2 * SINGLE * size).reshape(golden.shape)


def gradient_problems(made: Kernel, tensors: Tensors, half: torch.dtype) -> list[str]:
    """What is wrong with the gradients of a call, in words."""
    found, incoming = kernel_gradients(made, tensors)
    golden = expected(made.spec.attention, made, tensors, incoming)
    allowed = units(made, tensors, incoming, half, golden)
    wrong = zip(names(made), map(exceeded, found, golden, allowed), strict=True)
    return [f"d_{name}: {words}" for name, words in wrong if words]
