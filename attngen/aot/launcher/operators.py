"""The kernels of a package as operators of torch: fake, autograd, torch.compile, torch.export.

    NAMESPACE::NAME           arguments -> result, or a tuple of results; has gradients
    NAMESPACE::NAME_training  arguments -> results, then the rows that the backward needs
    NAMESPACE::NAME_backward  arguments, (saved rows, results, their gradients) -> gradients

Defined through torch.library.Library: torch.library.custom_op would import torch._dynamo, which
takes a second, and adds some ten microseconds to a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .errors import ArgumentError
from .kernel import Kernel, like

_KINDS = {"i8": "int", "i32": "int", "i64": "int", "bool": "bool"}
_WORDS = frozenset(("Tensor", "int", "float", "bool", "str", "Scalar", "Device", "self", "out"))
_libraries: dict[str, Any] = {}  # a library that is dropped takes its operators with it


def define(namespace: str, kernel: Kernel) -> Any:
    """Define the operators of a kernel; the first of them."""
    library = _libraries.get(namespace)
    if library is None:
        library = _libraries[namespace] = _library(namespace)
    arguments = ", ".join(map(_argument, kernel.declared))
    results = "Tensor" if kernel.single else f"({', '.join(['Tensor'] * len(kernel.outputs))})"
    _define(library, f"{kernel.name}({arguments}) -> {results}")
    plain = _overload(namespace, kernel.name)
    kernel.operator = plain
    _implement(library, kernel.name, lambda *values: kernel.results(values))
    fakes = _Fakes(kernel)
    torch.library.register_fake(f"{namespace}::{kernel.name}", fakes.results, lib=library)
    if kernel.trains:
        training = _training(namespace, library, kernel, arguments, fakes)
        library.impl(kernel.name, _Gradient(kernel, plain, training), "Autograd")
    return plain


def _training(namespace: str, library: Any, kernel: Kernel, arguments: str, fakes: _Fakes) -> Any:
    train, back = f"{kernel.name}_training", f"{kernel.name}_backward"
    _define(library, f"{train}({arguments}) -> Tensor[]")
    _define(library, f"{back}({arguments}, Tensor[] given) -> Tensor[]")
    _implement(library, train, lambda *values: kernel.training(values))
    _implement(library, back, lambda *values: kernel.backward(values[:-1], values[-1]))
    torch.library.register_fake(f"{namespace}::{train}", fakes.training, lib=library)
    torch.library.register_fake(f"{namespace}::{back}", fakes.backward, lib=library)
    formula = _Formula(kernel, _overload(namespace, back))
    torch.library.register_autograd(
        f"{namespace}::{train}", formula.backward, setup_context=formula.setup, lib=library
    )
    torch.library.register_autograd(f"{namespace}::{back}", _twice, lib=library)
    return _overload(namespace, train)


def _argument(declared: dict[str, Any]) -> str:
    name = declared["name"]
    kind = _KINDS.get(declared["dtype"], "float") if declared["scalar"] else "Tensor"
    return f"{kind} {f'arg_{name}' if name in _WORDS else name}"


def _library(namespace: str) -> Any:
    return torch.library.Library(namespace, "DEF")  # type: ignore[no-untyped-call] # torch's


def _define(library: Any, schema: str) -> None:
    tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
    library.define(schema, tags=tags)


def _implement(library: Any, name: str, function: Any) -> None:
    for key in ("CUDA", "CPU"):  # on a CPU it says that kernels run on GPUs
        library.impl(name, function, key)


def _overload(namespace: str, name: str) -> Any:
    return getattr(getattr(torch.ops, namespace), name).default


class _Gradient:
    """What the operator does above autograd: with gradients wanted it is the training operator."""

    def __init__(self, kernel: Kernel, plain: Any, training: Any) -> None:
        self.kernel, self.plain, self.training = kernel, plain, training

    def __call__(self, *values: Any) -> Any:
        kernel = self.kernel
        if torch.is_grad_enabled() and any(values[i].requires_grad for i in kernel.floats):
            found = self.training(*values)
            return found[0] if kernel.single else tuple(found[: len(kernel.outputs)])
        with torch._C._AutoDispatchBelowAutograd():
            return self.plain(*values)


class _Fakes:
    """Shapes and dtypes of what the operators return."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def results(self, *values: Any) -> Any:
        made = self.kernel.shaped(self.kernel.check(values), values)
        return made[0] if self.kernel.single else tuple(made)

    def training(self, *values: Any) -> list[torch.Tensor]:
        facts = self.kernel.check(values)
        return [*self.kernel.shaped(facts, values), *self.kernel.saved(facts, values)]

    def backward(self, *values: Any) -> list[torch.Tensor]:
        wanted = self.kernel.trained(self.kernel.check(values[:-1]))["wiring"]["gradients"]
        return [like(values[i], values[:-1], torch.empty) for i in wanted]


class _Formula:
    """The autograd formula of the training operator."""

    def __init__(self, kernel: Kernel, backward: Any) -> None:
        self.kernel, self.run = kernel, backward

    def setup(self, ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
        """Keep the arguments, the saved rows and the results that are read back."""
        wiring = self.kernel.trained(self.kernel.check(inputs))["wiring"]
        count = len(self.kernel.outputs)
        saved, kept = output[count:], [output[i] for i in wiring["results"]]
        integers = [x for x in output[:count] if not x.is_floating_point()]
        ctx.mark_non_differentiable(*saved, *integers)
        ctx.wiring = wiring
        ctx.numbers = [None if isinstance(v, torch.Tensor) else v for v in inputs]
        tensors = [v for v in inputs if isinstance(v, torch.Tensor)]
        ctx.save_for_backward(*tensors, *saved, *kept)

    def backward(self, ctx: Any, seeds: Sequence[Any]) -> tuple[Any, ...]:
        """Gradients of the arguments, None for those that have none."""
        wiring, kept = ctx.wiring, iter(ctx.saved_tensors)
        inputs = [next(kept) if number is None else number for number in ctx.numbers]
        given = [*kept, *(seeds[i].contiguous() for i in wiring["seeds"])]
        found = self.run(*inputs, given)
        out: list[Any] = [None] * len(inputs)
        for i, gradient in zip(wiring["gradients"], found, strict=True):
            if ctx.needs_input_grad[i]:
                out[i] = gradient
        return tuple(out)


def _twice(ctx: Any, *gradients: Any) -> Any:
    raise ArgumentError(
        "a kernel was differentiated twice, and there is no derivative of its backward: "
        "leave create_graph=True out"
    )
