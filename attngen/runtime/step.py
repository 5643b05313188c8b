"""A call with gradients: one step of autograd, without the dispatcher where nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from attngen.runtime.launch import Plan
from attngen.runtime.scalars import Scalar

if TYPE_CHECKING:
    from attngen.runtime.operators import Operators
    from attngen.runtime.training import Wiring

Values: TypeAlias = "Sequence[Any]"
Start: TypeAlias = "Callable[[Values], tuple[Plan, Any]]"


class Switch:
    """What a call with tensors that require a gradient does: it depends on torch's grad mode.

    With gradients it is one `Step`; where somebody watches operators (selective checkpoints, tools
    that trace), the operators of the kernel.
    """

    __slots__ = ("kept", "operators", "plain", "scalars", "start")

    def __init__(
        self, operators: Operators, scalars: Sequence[tuple[int, Scalar]], start: Start
    ) -> None:
        self.operators, self.scalars, self.start = operators, scalars, start
        self.plain: Plan | None = None
        self.kept: Forward | None = None

    def run(self, values: Values) -> Any:
        """The result, or the tuple of results."""
        if torch.is_grad_enabled():
            values = self._numbers(values)
            if torch._C._len_torch_dispatch_stack():
                return self.operators.call(values)
            results = Step.apply(self, *values)  # type: ignore[no-untyped-call] # of torch
            return results[0] if self.operators.count == 1 else results
        if self.plain is not None:
            return self.plain.run(values)
        self.plain, results = self.start(values)
        return results

    def forward(self, values: Values) -> tuple[tuple[torch.Tensor, ...], Forward]:
        """The results and then the saved rows, and what is known of them."""
        if self.kept is not None:
            return self.kept.plan.run(values), self.kept
        self.kept, found = self.operators.run.first_forward(values)
        return found, self.kept

    def _numbers(self, values: Values) -> Values:
        """Run-time scalars checked and clamped; tensors stay, they may want a gradient."""
        if not self.scalars:
            return values
        out = list(values)
        for i, scalar in self.scalars:
            out[i] = out[i] if isinstance(out[i], torch.Tensor) else scalar.convert(out[i])
        return out


@dataclass(frozen=True)
class Forward:
    """A forward that keeps rows, for one signature.

    blank: (shape, dtype, device) of each result; integers: positions of results without gradients.
    """

    plan: Plan
    wiring: Wiring
    blank: tuple[tuple[torch.Size, torch.dtype, torch.device], ...]
    integers: tuple[int, ...]

    @classmethod
    def of(cls, plan: Plan, wiring: Wiring, results: Sequence[torch.Tensor]) -> Forward:
        """From what the first call gave."""
        blank = tuple((x.shape, x.dtype, x.device) for x in results)
        whole = tuple(i for i, x in enumerate(results) if not x.is_floating_point())
        return cls(plan, wiring, blank, whole)


class Step(torch.autograd.Function):
    """A call with gradients outside of graphs: forward and backward without the dispatcher."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, *values: Any) -> tuple[torch.Tensor, ...]:
        """The results; kept: the arguments, the saved rows, the results that are read back."""
        found, known = switch.forward(values)
        count = switch.operators.count
        results = found[:count]
        read = [results[i] for i in known.wiring.results]
        ctx.switch, ctx.known = switch, known
        ctx.numbers = [None if isinstance(v, torch.Tensor) else v for v in values]
        tensors = (v if isinstance(v, torch.Tensor) else None for v in values)
        ctx.save_for_backward(*tensors, *found[count:], *read)
        ctx.set_materialize_grads(False)
        if known.integers:
            ctx.mark_non_differentiable(*(results[i] for i in known.integers))
        return results

    @staticmethod
    def backward(ctx: Any, *seeds: Any) -> tuple[Any, ...]:
        """Gradients of the arguments; SpecError or CallError as the forward."""
        operators, known = ctx.switch.operators, ctx.known
        kept, count = ctx.saved_tensors, len(ctx.numbers)
        pairs = zip(kept[:count], ctx.numbers, strict=True)
        inputs = [number if tensor is None else tensor for tensor, number in pairs]
        given = list(kept[count:])
        for i in known.wiring.seeds:
            shape, dtype, device = known.blank[i]
            seed = seeds[i]
            zero = seed is None
            given.append(
                torch.zeros(shape, dtype=dtype, device=device) if zero else seed.contiguous()
            )
        found = operators.backward(inputs, given)
        return (None, *placed(known.wiring, found, inputs, ctx.needs_input_grad[1:]))


def placed(
    wiring: Wiring, found: Sequence[torch.Tensor], inputs: Values, wanted: Sequence[bool]
) -> list[Any]:
    """Gradients in the places of their arguments, None for the others."""
    out: list[Any] = [None] * len(inputs)
    for i, gradient in zip(wiring.gradients, found, strict=True):
        if wanted[i]:
            out[i] = gradient.to(device=inputs[i].device, dtype=inputs[i].dtype)
    return out
