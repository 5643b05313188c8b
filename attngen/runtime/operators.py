"""A kernel as `torch.library` operators: results alone, results for training, and the backward.

    attngen::NAME           tensors -> results
    attngen::NAME_training  tensors -> results, then saved rows; has an autograd formula
    attngen::NAME_backward  tensors, (saved rows, results, their gradients) -> gradients

NAME ends in a hash of the spec, so that a graph that was compiled and stored in one process means
the same in another. Run-time scalars are tensors without axes. Lengths are not part of anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.core.dtype import Dtype
from attngen.ir.attention import Tensor
from attngen.runtime.autograd import ORDINARY, Differentiated, has_gradient, shapes
from attngen.runtime.checks import Call
from attngen.runtime.fingerprint import digest
from attngen.runtime.step import placed

if TYPE_CHECKING:
    from attngen.runtime.kernel import Kernel

Value = TypeVar("Value")
_LOCK = threading.Lock()
LIBRARY = torch.library.Library(  # type: ignore[no-untyped-call] # of torch
    "attngen", "FRAGMENT"
)  # operators live as long as this does


class Operators:
    """The three operators of a kernel, defined when first asked for."""

    def __init__(self, kernel: Kernel) -> None:
        self.floats, self.count = kernel.floats, len(kernel.outputs)
        self.run = Differentiated(kernel)
        self.scalars = tuple(_number(t) if t.is_scalar else None for t in kernel.declared)
        self.ready = _definer(kernel)
        self.trains = _constant(lambda: has_gradient(kernel.spec.attention))

    def call(self, values: Sequence[Any]) -> Any:
        """The result, or the tuple of results, with gradients where they are wanted."""
        tensors = self._tensors(values)
        wanted = False
        if torch.is_grad_enabled() and self.trains():
            for i in self.floats:
                wanted = wanted or tensors[i].requires_grad
        results = self.operator("_training" if wanted else "")(*tensors)
        return results[0] if self.count == 1 else tuple(results[: self.count])

    def _tensors(self, values: Sequence[Any]) -> list[torch.Tensor]:
        """Numbers as tensors without axes."""
        return [
            v if kind is None or isinstance(v, torch.Tensor) else torch.tensor(v, dtype=kind)
            for v, kind in zip(values, self.scalars, strict=True)
        ]

    def backward(self, values: Sequence[Any], given: list[torch.Tensor]) -> list[torch.Tensor]:
        """Gradients; as an operator where somebody watches, or wants a second derivative."""
        watched = torch.is_grad_enabled() or torch._C._len_torch_dispatch_stack()
        if not watched and all(type(x) in ORDINARY for x in given):
            return self.run.backward(list(values), given)
        found: list[torch.Tensor] = self.operator("_backward")(self._tensors(values), given)
        return found

    def operator(self, kind: str) -> Any:
        """One of them: "", "_training", "_backward"."""
        return getattr(torch.ops.attngen, self.ready() + kind).default


def _definer(kernel: Kernel) -> Callable[[], str]:
    """A function that gives the name of a kernel's operators, and sees to it that they are there.

    torch.compile takes its value as a constant: a graph calls operators, it does not define any.
    """
    made: list[str] = []

    def ready() -> str:
        if not made:
            name = _name(kernel)
            with _LOCK:
                if not hasattr(torch.ops.attngen, name):
                    _define(name, kernel)
            made.append(name)
        return made[0]

    return _constant(ready)


def _constant(function: Callable[[], Value]) -> Callable[[], Value]:
    """What torch.compiler.assume_constant_result does, which takes a second to import."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def _name(kernel: Kernel) -> str:
    spec = kernel.spec
    target = kernel.target.name if kernel.target else ""
    key = digest(
        "op", text=spec.source.text, params=spec.params, options=spec.options, target=target
    )
    return f"{kernel.name}_{key[:16]}"


def _define(name: str, kernel: Kernel) -> None:
    """Through `Library`: `custom_op` imports torch.compile, and its calls take longer."""
    run, fakes = kernel.operators.run, _Fakes(kernel)
    arguments = ", ".join(f"Tensor {_safe(t.name)}" for t in kernel.declared)
    taken = f"({arguments}) -> Tensor[]"
    schemas = {
        name: (taken, run.results, fakes.results),
        f"{name}_training": (taken, run.forward, fakes.forward),
        f"{name}_backward": (
            "(Tensor[] tensors, Tensor[] given) -> Tensor[]",
            run.backward,
            fakes.backward,
        ),
    }
    for own, (schema, function, fake) in schemas.items():
        LIBRARY.define(  # type: ignore[no-untyped-call] # of torch
            own + schema, tags=(torch.Tag.pt2_compliant_tag,)
        )
        for key in ("CPU", "CUDA"):
            LIBRARY.impl(own, function, key)  # type: ignore[no-untyped-call] # of torch
        torch.library.register_fake(f"attngen::{own}", fake, lib=LIBRARY)
    formula = _Formula(fakes, kernel.operators)
    torch.library.register_autograd(f"attngen::{name}_backward", _twice, lib=LIBRARY)
    torch.library.register_autograd(
        f"attngen::{name}_training", formula.backward, setup_context=formula.setup, lib=LIBRARY
    )


class _Fakes:
    """Shapes and dtypes of what the operators return, from those of their arguments."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.run = kernel, kernel.operators.run
        self.attention = kernel.spec.attention

    def results(self, *values: Any) -> list[torch.Tensor]:
        return self._results(self.call(values), values)

    def forward(self, *values: Any) -> list[torch.Tensor]:
        call = self.call(values)
        results = self._results(call, values)
        wiring = self.run.training(call).wiring
        saved = shapes(self.attention, call, wiring, values)
        device = results[0].device
        return results + [torch.empty(s, dtype=d, device=device) for s, d in saved]

    def backward(self, tensors: list[Any], given: list[torch.Tensor]) -> list[torch.Tensor]:
        wiring = self.run.training(self.call(tensors)).wiring
        device = given[0].device
        out = []
        for i in wiring.gradients:
            x = tensors[i]
            dtype = torch.float32 if self.kernel.declared[i].is_scalar else x.dtype
            out.append(torch.empty(x.shape, dtype=dtype, device=device))
        return out

    def call(self, values: Sequence[Any]) -> Call:
        """The facts of a call; scalars are not looked at, as they may not be known yet."""
        shown = [
            _some(t) if t.is_scalar else v
            for t, v in zip(self.kernel.declared, values, strict=True)
        ]
        return self.kernel.checker.check(shown)

    def _results(self, call: Call, values: Sequence[Any]) -> list[torch.Tensor]:
        from attngen.runtime.empty import result_shape  # noqa: PLC0415 - only when traced

        made = []
        for _, e in self.attention.outputs:
            shape, dtype, device = result_shape(self.attention, call, values, e)
            made.append(torch.empty(shape, dtype=dtype, device=device))
        return made


class _Formula:
    """The autograd formula of the training operator."""

    def __init__(self, fakes: _Fakes, operators: Operators) -> None:
        self.fakes, self.operators = fakes, operators
        self.results = fakes.attention.outputs

    def setup(self, ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
        """Keep the arguments, the saved rows and the results that are read back."""
        wiring = self.fakes.run.training(self.fakes.call(inputs)).wiring
        count = len(self.results)
        saved = output[count:]
        kept = [output[i] for i in wiring.results]
        ctx.wiring, ctx.arguments = wiring, len(inputs)
        integers = [x for x in output[:count] if not x.is_floating_point()]
        ctx.mark_non_differentiable(*saved, *integers)
        ctx.save_for_backward(*inputs, *saved, *kept)

    def backward(self, ctx: Any, seeds: list[Any]) -> tuple[Any, ...]:
        """Gradients of the arguments, None for those that have none."""
        wiring, count = ctx.wiring, ctx.arguments
        kept = ctx.saved_tensors
        inputs, given = list(kept[:count]), list(kept[count:])
        given += [seeds[i].contiguous() for i in wiring.seeds]
        found = self.operators.operator("_backward")(inputs, given)
        return tuple(placed(wiring, found, inputs, ctx.needs_input_grad))


def _twice(ctx: Any, *gradients: Any) -> Any:
    message = "a kernel was differentiated twice, and there is no derivative of its backward"
    fix = "leave create_graph=True out, or use the formula in plain torch for this step"
    raise CallError(Diagnostic("E522", message, help=fix))


def _safe(name: str) -> str:
    """An argument name that no word of the schema language is."""
    return f"arg_{name}"


def _number(tensor: Tensor) -> torch.dtype:
    """How a run-time scalar travels as a tensor without axes."""
    if tensor.dtype is Dtype.BOOL:
        return torch.bool
    return torch.int64 if tensor.dtype.is_integer else torch.float64


def _some(tensor: Tensor) -> int | float | bool:
    """Any value of a scalar's kind."""
    if tensor.dtype is Dtype.BOOL:
        return False
    return 1 if tensor.dtype.is_integer else 1.0
