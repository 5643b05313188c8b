"""Evaluates what the host computes: trees of plain data, `["cdiv", "q_len", 64]`; never `eval`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .errors import SchemaError

METHODS = (
    *("exp", "exp2", "log", "log2", "tanh", "sigmoid", "sqrt", "rsqrt", "cos", "sin"),
    *("abs", "relu", "floor"),
)

_NUMBERS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "cdiv": lambda a, b: -(-a // b),
    "min": min,
    "max": max,
    "gcd": math.gcd,
    "power2": lambda a: 1 << (a.bit_length() - 1),
    "low_bit": lambda a: a & -a,
    "and": operator.and_,
    "or": operator.or_,
    "shl": operator.lshift,
    "shr": operator.rshift,
    "lt": lambda a, b: int(a < b),
    "eq": lambda a, b: int(a == b),
    "select": lambda condition, a, b: a if condition else b,
}

_SEVERAL: dict[str, Callable[..., Any]] = {  # of arrays alone
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "ne": operator.ne,
    "where": torch.where,
    "clamp": lambda a, most: a.clamp(0, most),
    "take": lambda a, at: a.reshape(-1)[at],
    "unflatten": lambda a, axis, count: a.unflatten(axis, (count, -1)),
}
_ARRAYS: dict[str, Callable[..., Any]] = {
    "recip": lambda a: 1.0 / a,
    "sum": lambda a, axes: a.sum(tuple(axes)),
    "permute": lambda a, axes: a.permute(*axes),
    "first": lambda a, count: a[..., :count],
    "column": lambda a: a[:, None],
    **{name: operator.methodcaller(name) for name in METHODS},
}


def number(tree: Any, known: Mapping[str, Any], tensors: Mapping[str, Any]) -> Any:
    """A number from shapes and strides; tensors: anything with `shape` and `strides`."""
    if isinstance(tree, (int, float)):
        return tree
    if isinstance(tree, str):
        return known[tree]
    op, *rest = tree
    if op == "count":
        return math.prod(tensors[rest[0]].shape)
    if op in ("shape", "stride"):
        tensor = tensors[rest[0]]
        return (tensor.shape if op == "shape" else tensor.strides)[rest[1]]
    if op not in _NUMBERS:
        raise SchemaError(f"the manifest asks for an operation {op!r} this launcher does not have")
    return _NUMBERS[op](*(number(x, known, tensors) for x in rest))


def array(tree: Any, arrays: Mapping[str, Any]) -> Any:
    """A sum or a product of arrays, by torch."""
    if isinstance(tree, (int, float)):
        return tree
    if isinstance(tree, str):
        return arrays[tree]
    op, first, *rest = tree
    if op == "shape":
        return arrays[first].shape[rest[0]]
    if op == "to":
        return array(first, arrays).to(arrays[rest[0]].dtype)
    if op == "arange":
        return torch.arange(array(first, arrays), device=arrays[rest[0]].device)
    if op in ("by_element", "place"):
        return _placed(op, array(first, arrays), rest, arrays)
    if op in _SEVERAL:
        return _SEVERAL[op](*(array(x, arrays) for x in (first, *rest)))
    if op not in _ARRAYS:
        raise SchemaError(f"the manifest asks for an operation {op!r} this launcher does not have")
    return _ARRAYS[op](array(first, arrays), *rest)


def _placed(op: str, total: Any, rest: Any, arrays: Mapping[str, Any]) -> Any:
    """Numbers at the elements of a tensor they belong to: of all, or of one axis."""
    if op == "by_element":
        at, tensor = array(rest[0], arrays), arrays[rest[1]]
        own = at[..., None] == torch.arange(tensor.numel(), device=tensor.device)
        return torch.where(own, total[..., None], 0.0).sum((0, 1)).reshape(tensor.shape)
    name, axis, element, after = rest
    tensor = arrays[name]
    own = torch.arange(tensor.shape[axis], device=tensor.device).reshape(-1, *[1] * after)
    return torch.where(own == element, total.unsqueeze(axis), 0.0)


def names(tree: Any) -> set[str]:
    """Names whose value (not only shape or strides) a tree needs."""
    if isinstance(tree, str):
        return {tree}
    if not isinstance(tree, list):
        return set()
    op, *rest = tree
    if op in ("shape", "stride", "count"):
        return set()
    return {n for x in (rest[:1] if op == "to" else rest) for n in names(x)}
