"""Call-time arguments: which value belongs to which declaration, and how values are described."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Tensor
from attngen.runtime.interface import Interface


def parameters(declares: Attention | Interface) -> tuple[Tensor, ...]:
    """What a call passes, in declaration order: everything declared but the views."""
    return tuple(tensor for tensor in declares.tensors if tensor.view is None)


def bind(
    declared: Sequence[Tensor], positional: Sequence[Any], by_name: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The values in declaration order; CallError E501 missing, E502 unknown, twice or too many."""
    names = [tensor.name for tensor in declared]
    problems = []
    if len(positional) > len(names):
        message = f"{len(positional)} arguments were given, but there are only {len(names)}"
        problems.append(Diagnostic("E502", message, help=_call(names)))
    for name in by_name:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            fix = f"did you mean {close[0]}?" if close else _call(names)
            problems.append(Diagnostic("E502", f"there is no argument {name}", help=fix))
        elif name in names[: len(positional)]:
            message = f"{name} was given twice: in position {names.index(name) + 1} and by name"
            problems.append(Diagnostic("E502", message, help=_call(names)))
    for tensor in declared[len(positional) :]:
        if tensor.name not in by_name:
            message = f"{tensor.name} is missing; expected {expectation(tensor)}"
            problems.append(Diagnostic("E501", message, help=_call(names)))
    if problems:
        raise CallError(problems)
    return (*positional, *(by_name[name] for name in names[len(positional) :]))


def expectation(tensor: Tensor) -> str:
    """The declared type as in the spec: `half[B, H, S, D]`, or `a number (i32)`."""
    if tensor.is_scalar:
        return f"a number ({tensor.dtype.value})"
    return f"{tensor.dtype.value}[{', '.join(axis.name for axis in tensor.axes)}]"


def found(value: Any) -> str:
    """What arrived: dtype, shape, strides and device of a tensor, else the type of the value."""
    if not hasattr(value, "is_sparse"):
        return f"{type(value).__name__} {value!r:.40}"
    shape = ", ".join(map(str, value.shape))
    dtype = str(value.dtype).removeprefix("torch.")
    layout = str(value.layout).removeprefix("torch.")
    dense = layout == "strided"
    strides = f", strides ({', '.join(map(str, value.stride()))})" if dense else f", {layout}"
    return f"{dtype}[{shape}]{strides} on {value.device}"


def torch_dtype(dtype: Dtype) -> str:
    """The name in torch of a dtype of the language (of `half`: the usual one)."""
    return _TORCH[dtype]


def _call(names: Sequence[str]) -> str:
    return f"call it as kernel({', '.join(names)})"


_TORCH = {
    Dtype.HALF: "bfloat16",
    Dtype.F16: "float16",
    Dtype.BF16: "bfloat16",
    Dtype.F32: "float32",
    Dtype.F64: "float64",
    Dtype.FP8_E4M3: "float8_e4m3fn",
    Dtype.FP8_E5M2: "float8_e5m2",
    Dtype.I32: "int32",
    Dtype.I64: "int64",
    Dtype.I8: "int8",
    Dtype.BOOL: "bool",
    Dtype.Q8_0: "uint8",
    Dtype.Q4_0: "uint8",
}
