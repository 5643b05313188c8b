"""Evaluates what the host computes: trees of plain data, `["cdiv", "q_len", 64]`; never `eval`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from .errors import SchemaError

METHODS = ("exp", "log", "tanh", "sigmoid", "sqrt", "rsqrt", "cos", "sin")

_NUMBERS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "cdiv": lambda a, b: -(-a // b),
    "min": min,
    "max": max,
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

_ARRAYS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "mul": operator.mul,
    "recip": lambda a: 1.0 / a,
    "sum": lambda a, axes: a.sum(tuple(axes)),
    "permute": lambda a, axes: a.permute(*axes),
    "unflatten": lambda a, axis, count: a.unflatten(axis, (count, -1)),
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
    if op not in _ARRAYS:
        raise SchemaError(f"the manifest asks for an operation {op!r} this launcher does not have")
    two = op in ("add", "mul")
    tail = [array(x, arrays) for x in rest] if two or op == "unflatten" else rest
    return _ARRAYS[op](array(first, arrays), *tail)


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
