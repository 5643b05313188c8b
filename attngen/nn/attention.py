"""`Attention`: a spec as a module, with the inputs it owns as parameters and buffers."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.core.dtype import Dtype
from attngen.core.source import Source
from attngen.decorator import AttentionFunction
from attngen.ir.attention import Tensor
from attngen.runtime.bind import expectation
from attngen.runtime.kernel import Kernel, compile, read
from attngen.runtime.settings import expect_interpreter

Number = int | float | bool
CASTS = {Dtype.F32: torch.float32, Dtype.F16: torch.float16, Dtype.BF16: torch.bfloat16}


class Attention(torch.nn.Module):
    """The attention of a spec, applied to streams whose heads are split already.

    Streams and the inputs that the module does not own are passed with each call, by position (in
    the order of their declarations) or by name. What it owns is given by name when it is made:

        Attention("alibi.attn", slope=torch.nn.Parameter(torch.rand(16)), cap=30.0)

    A Parameter becomes a parameter, a tensor a buffer, a number the value of a run-time scalar or
    of a `param` of the spec. `state_dict` names them as the spec does. `Module.to(dtype)` may
    change the dtype of what is owned: each call reads it in the dtype that is declared (`half`:
    that of the first stream). Copies and pickles hold the text of the spec, never code.
    """

    def __init__(
        self,
        spec: str | Path | AttentionFunction,
        *,
        target: str | None = None,
        backend: str | None = None,
        **owned: torch.Tensor | Number,
    ) -> None:
        """spec: text, path of a file, or a function with `@attention`; the rest as `compile`.

        SpecError: mistakes of the spec; CallError E524: a name or value that does not fit.
        """
        super().__init__()
        expect_interpreter()
        declared, source, known = _declarations(spec, target, backend)
        names = {tensor.name: tensor for tensor in declared}
        held = {n: v for n, v in owned.items() if n in names or isinstance(v, torch.Tensor)}
        for name, value in held.items():
            _require_fit(name, value, names)
        params = {n: _number(v) for n, v in owned.items() if n not in held}
        self._params = dict(params)
        if isinstance(spec, AttentionFunction):
            made = spec.kernel(**params)
            source, params = made.spec.source, {}
        self._made_of = (source.name, source.text, tuple(sorted(params.items())), *known)
        self._numbers: dict[str, Number] = {}
        self._kernel = _kernel(*self._made_of)
        self._own(held)

    def forward(self, *tensors: Any, **by_name: Any) -> Any:
        """The result, or the tuple of results; what is passed by name wins over what is owned."""
        named = dict(zip(self._open, tensors, strict=False))
        if len(tensors) > len(named) or any(n in named for n in by_name):
            raise self._misplaced(tensors, by_name)
        named.update(by_name)
        stream = next((named[n] for n in self._streams if n in named), None)
        for tensor in self._held:
            if tensor.name not in named:
                named[tensor.name] = self._value(tensor, stream)
        return self._kernel(**named)

    @property
    def kernel(self) -> Kernel:
        """What is called: `.source`, `.explain()`, `.declared` and so on."""
        return self._kernel

    @property
    def spec(self) -> str:
        """The text of the spec."""
        return self._made_of[1]

    def extra_repr(self) -> str:
        """The call, the values of `param`s and numbers; parameters and buffers have own entries."""
        kernel = self._kernel
        call = f"{kernel.name}({', '.join(self._open)}) -> {', '.join(kernel.outputs)}"
        values = [f"{n}={v}" for n, v in (*self._params.items(), *self._numbers.items())]
        own = [f"{t.name}: {expectation(t)}" for t in self._held if t.name not in self._numbers]
        return ", ".join([call, *own, *values])

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the kernel, which is made again from the text."""
        return {n: v for n, v in self.__dict__.items() if n not in ("_kernel", "_held")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy, or one that was pickled."""
        super().__setstate__(state)  # type: ignore[no-untyped-call] # of torch
        self._kernel = _kernel(*self._made_of)
        self._arrange()

    def _own(self, held: Mapping[str, Any]) -> None:
        for name, value in held.items():
            if hasattr(self, name):
                message = f"an input called {name} cannot be owned: the module has that attribute"
                fix = f"pass {name} with each call, or give it another name in the spec"
                raise CallError(Diagnostic("E524", message, help=fix))
            if isinstance(value, torch.nn.Parameter):
                self.register_parameter(name, value)
            elif isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            else:
                self._numbers[name] = value
        self._owns = frozenset(held)
        self._arrange()

    def _arrange(self) -> None:
        declared = self._kernel.declared
        self._held = tuple(t for t in declared if t.name in self._owns)
        self._open = tuple(t.name for t in declared if t.name not in self._owns)
        self._streams = tuple(t.name for t in declared if t.is_stream)

    def _value(self, tensor: Tensor, stream: Any) -> Any:
        """What is owned, in the dtype the spec declares."""
        if tensor.name in self._numbers:
            return self._numbers[tensor.name]
        value = getattr(self, tensor.name)
        if not value.is_floating_point():
            return value
        half = tensor.dtype is Dtype.HALF and isinstance(stream, torch.Tensor)
        dtype = stream.dtype if half else CASTS.get(tensor.dtype, value.dtype)
        return value.to(dtype)

    def _misplaced(self, tensors: Sequence[Any], by_name: Mapping[str, Any]) -> CallError:
        twice = [n for n in self._open[: len(tensors)] if n in by_name]
        message = f"{len(tensors)} arguments were given by position, but {len(self._open)} are open"
        if twice:
            message = f"{twice[0]} was given twice: by position and by name"
        own = f" (owned by the module: {', '.join(sorted(self._owns))})" if self._owns else ""
        fix = f"call it with ({', '.join(self._open)}){own}"
        return CallError(Diagnostic("E502", message, help=fix))


@functools.lru_cache(maxsize=256)
def _kernel(
    name: str,
    text: str,
    params: tuple[tuple[str, Number], ...],
    target: str | None,
    backend: str | None,
) -> Kernel:
    """One kernel for all modules of one spec: the layers of a model share what is compiled."""
    return compile(Source(name, text), target, backend, numerics=None, **dict(params))


def _declarations(
    spec: Any, target: str | None, backend: str | None
) -> tuple[tuple[Tensor, ...], Source, tuple[str | None, str | None]]:
    """What a call passes, the text, and (target, backend)."""
    if isinstance(spec, AttentionFunction):
        kernel = spec.kernel()
        return kernel.declared, kernel.spec.source, (target or spec.target, backend or spec.backend)
    if not isinstance(spec, str | Path):
        message = f"the spec is a {type(spec).__name__}"
        fix = "pass the text of a spec, the path of a .attn file, or a function with @attention"
        raise CallError(Diagnostic("E524", message, help=fix))
    source = read(spec)
    return compile(source, target, backend).declared, source, (target, backend)


def _number(value: torch.Tensor | Number) -> Number:
    """The value of a `param`; `compile` says what else does not fit."""
    assert not isinstance(value, torch.Tensor)  # those are inputs
    return value


def _require_fit(name: str, value: Any, names: Mapping[str, Tensor]) -> None:
    """CallError E524 for what a module cannot own."""
    tensor = names.get(name)
    if tensor is None:
        inputs = [n for n, t in names.items() if not t.is_stream]
        close = difflib.get_close_matches(name, inputs, 1)
        fix = (
            f"did you mean {close[0]}?"
            if close
            else f"the inputs are {', '.join(inputs) or 'none'}"
        )
        raise CallError(Diagnostic("E524", f"the spec declares no input {name}", help=fix))
    if tensor.is_stream:
        message = f"{name} is a stream, which a module cannot own"
        raise CallError(Diagnostic("E524", message, help=f"pass {name} with each call"))
    is_tensor = isinstance(value, torch.Tensor)
    if not is_tensor and not tensor.is_scalar:
        message = f"{name}: expected {expectation(tensor)}, found {type(value).__name__}"
        fix = f"{name}=torch.nn.Parameter(...) to train it, {name}=torch.tensor(...) to keep it"
        raise CallError(Diagnostic("E524", message, help=fix))
    if is_tensor and value.ndim != len(tensor.axes):
        message = f"{name} has {value.ndim} axes: expected {expectation(tensor)}"
        fix = f"reshape {name} to [{', '.join(a.name for a in tensor.axes)}]"
        raise CallError(Diagnostic("E524", message, help=fix))
