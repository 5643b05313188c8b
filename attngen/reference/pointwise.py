"""Pointwise functions of the language on tensors, safe to differentiate.

Every function here obeys one rule in the backward pass: a zero adjoint contributes zero, whatever
the derivative. So a branch that `where` or the mask dropped sends no NaN into a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Function = Callable[..., Tensor]


def unary(op: str, x: Tensor, compute: torch.dtype) -> Tensor:
    """A function of `attngen.ir.expr.UNARY`; floats are computed in `compute`."""
    if op == "not":
        return ~x.bool()
    if op == "abs" or (op == "floor" and not x.is_floating_point()):
        return _guarded(torch.abs, x) if op == "abs" else x
    return _guarded(_UNARY[op], x.to(compute))


def binary(op: str, a: Tensor, b: Tensor, compute: torch.dtype) -> Tensor:
    """A function of ARITHMETIC, COMPARE or LOGIC over aligned tensors; two integers stay integers.

    `//` and `%` round towards minus infinity; dividing an integer by zero gives 0.
    """
    if op in _LOGIC:
        return _LOGIC[op](a.bool(), b.bool())
    a, b = _promote(a, b, compute)
    if op in _COMPARE:
        return _COMPARE[op](a, b)
    if op == "add":
        return a + b
    if op in ("floordiv", "mod") and not a.is_floating_point():
        return _divide(op, a, b)
    if op == "pow" and not a.is_floating_point():
        return torch.pow(a, b.clamp(min=0))
    return _guarded(_ARITHMETIC[op], a, b)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Product whose backward never makes NaN from a zero adjoint."""
    return _guarded(torch.mul, a, b)


def where(condition: Tensor, a: Tensor, b: Tensor, compute: torch.dtype) -> Tensor:
    """`a` where the condition holds, else `b`."""
    a, b = _promote(a, b, compute)
    return torch.where(condition.bool(), a, b)


def cast(x: Tensor, dtype: str, compute: torch.dtype) -> Tensor:
    """Conversion by dtype name: rounds to narrow floats, truncates and wraps to integers.

    `f32`, `f64` and `half` do not round: the reference is the formula in exact numbers.
    """
    if dtype == "bool":
        return x.bool()
    if dtype in _INTEGERS:
        whole = x.detach().to(torch.int64)
        return whole.to(_INTEGERS[dtype]).to(torch.int64)
    x = x.to(compute)
    return x.to(_ROUNDED[dtype]).to(compute) if dtype in _ROUNDED else x


def finite(x: Tensor) -> bool:
    """Whether no element is NaN or infinite."""
    return not x.is_floating_point() or bool(torch.isfinite(x).all())


class _Guarded(torch.autograd.Function):
    """Applies a pointwise function; where the adjoint is zero its arguments get exactly zero."""

    @staticmethod
    def forward(ctx: Any, function: Function, *arguments: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*arguments)
        return function(*arguments)

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor) -> tuple[Tensor | None, ...]:
        (adjoint,) = adjoints
        with torch.enable_grad():
            saved = ctx.saved_tensors
            shape = adjoint.shape
            arguments = [x.detach().expand(shape).clone().requires_grad_() for x in saved]
            value = ctx.function(*arguments)
            slopes = torch.autograd.grad(value, arguments, adjoint)
        clean = (torch.where(adjoint == 0, torch.zeros_like(s), s) for s in slopes)
        return (None, *(s.sum_to_size(x.shape) for s, x in zip(clean, saved, strict=True)))


def _guarded(function: Function, *arguments: Tensor) -> Tensor:
    if torch.is_grad_enabled() and any(x.requires_grad for x in arguments):
        return _Guarded.apply(function, *arguments)  # type: ignore[no-any-return,no-untyped-call] # untyped in its library
    return function(*arguments)


def _promote(a: Tensor, b: Tensor, compute: torch.dtype) -> tuple[Tensor, Tensor]:
    kind = compute if a.is_floating_point() or b.is_floating_point() else torch.int64
    return a.to(kind), b.to(kind)


def _divide(op: str, a: Tensor, b: Tensor) -> Tensor:
    by = torch.where(b == 0, torch.ones_like(b), b)
    whole = torch.div(a, by, rounding_mode="floor") if op == "floordiv" else torch.remainder(a, by)
    return torch.where(b == 0, torch.zeros_like(whole), whole)


def _logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """log(e^a + e^b), -inf for two -inf, also under differentiation."""
    empty = (a == -torch.inf) & (b == -torch.inf)
    zero = torch.zeros_like(a)
    safe = torch.logaddexp(torch.where(empty, zero, a), torch.where(empty, zero, b))
    return torch.where(empty, torch.full_like(safe, -torch.inf), safe)


_UNARY: dict[str, Function] = {
    "exp": torch.exp,
    "exp2": torch.exp2,
    "log": torch.log,
    "log2": torch.log2,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "relu": torch.relu,
    # softplus of torch turns linear above a threshold; this is exact everywhere
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "recip": torch.reciprocal,
    "floor": torch.floor,
    "sin": torch.sin,
    "cos": torch.cos,
}
_ARITHMETIC: dict[str, Function] = {
    "mul": torch.mul,
    "floordiv": lambda a, b: torch.floor(a / b),
    "mod": lambda a, b: a - b * torch.floor(a / b),
    "pow": torch.pow,
    "max": torch.maximum,
    "min": torch.minimum,
    "logaddexp": _logaddexp,
}
_COMPARE: dict[str, Function] = {"lt": torch.lt, "le": torch.le, "eq": torch.eq, "ne": torch.ne}
_LOGIC: dict[str, Function] = {"and": torch.logical_and, "or": torch.logical_or}
_INTEGERS = {"i8": torch.int8, "i32": torch.int32, "i64": torch.int64}
_ROUNDED = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
