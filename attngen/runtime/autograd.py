"""Which calls have gradients, and how forward and backward of a kernel are run."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Tensor
from attngen.runtime.checks import Call
from attngen.runtime.direct import Entry
from attngen.runtime.launch import Copy, Plan, align, aligned, signature
from attngen.runtime.step import Forward

if TYPE_CHECKING:
    from attngen.runtime.kernel import Kernel
    from attngen.runtime.specialise import Request
    from attngen.runtime.training import Training, Wiring

Values: TypeAlias = "Sequence[Any]"
FLOATS = (Dtype.HALF, Dtype.F16, Dtype.BF16, Dtype.F32)
ORDINARY = (torch.Tensor, torch.nn.Parameter)
PLANS = 1024  # remembered signatures of each direction


def floats(declared: Sequence[Tensor]) -> tuple[int, ...]:
    """Positions of the arguments that can have a gradient."""
    return tuple(i for i, t in enumerate(declared) if t.dtype in FLOATS and not t.const)


def has_gradient(attention: Attention) -> bool:
    """Whether any result has one: indices have none."""
    return any(e.kind != "int" for _, e in attention.outputs)


def halves(declared: Sequence[Tensor]) -> tuple[int, ...]:
    """Positions of the arguments that autocast casts: those declared `half`."""
    return tuple(i for i, t in enumerate(declared) if t.dtype is Dtype.HALF)


def autocast(values: Values, places: Sequence[int]) -> tuple[Any, ...]:
    """The arguments as torch's own attention has them under autocast: in its dtype, from any.

    Float64 stays, as there; so do inputs declared `f32`, whose rounding would change the formula.
    """
    out = list(values)
    for i in places:
        x = out[i]
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            continue
        if torch.is_autocast_enabled(x.device.type) and x.dtype is not torch.float64:
            out[i] = x.to(torch.get_autocast_dtype(x.device.type))
    return tuple(out)


def in_graph(key: Hashable | None, values: Values) -> bool:
    """Whether tensors stand for others, so that only the operators can take them.

    CallError E523: tensors of torch.func's transforms.
    """
    for value in values:
        if isinstance(value, torch.Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(
            value
        ):
            message = "a kernel was called inside torch.vmap or another transform of torch.func"
            fix = "pass the batch as the axis B of the tensors; torch.autograd gives gradients"
            raise CallError(Diagnostic("E523", message, help=fix))
    return (key is None and all(map(_dense, values))) or any(map(_stands_for_another, values))


def _dense(value: Any) -> bool:
    """Whether it may stand for a tensor while a graph is traced, when it has no address."""
    tensor = isinstance(value, torch.Tensor)
    return not tensor or (value.layout is torch.strided and value.device.type != "meta")


def _stands_for_another(value: Any) -> bool:
    """Whether it is a tensor without contents of its own."""
    if not isinstance(value, torch.Tensor) or type(value) in ORDINARY:
        return False
    from torch._subclasses.fake_tensor import is_fake  # noqa: PLC0415 - rarely needed
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass  # noqa: PLC0415

    return bool(is_fake(value) or is_traceable_wrapper_subclass(value))


class Differentiated:
    """Forward and backward of a kernel on plain tensors, below torch's autograd."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._forward: dict[Hashable, Plan] = {}
        self._backward: dict[Hashable, Plan] = {}

    def results(self, *values: Any) -> list[torch.Tensor]:
        """Only the results, of arguments that may require a gradient nobody asked for."""
        with torch.no_grad():
            found = self.kernel(*values)
        return [found] if isinstance(found, torch.Tensor) else list(found)

    def forward(self, *values: Any) -> list[torch.Tensor]:
        """The results, then the rows the backward needs."""
        key = signature(values)
        plan = self._forward.get(key)
        if plan is not None:
            return list(plan.run(values))
        known, found = self.first_forward(values)
        _remember(self._forward, key, known.plan)
        return list(found)

    def first_forward(self, values: Values) -> tuple[Forward, tuple[torch.Tensor, ...]]:
        """The plan of such calls, and what the first of them returns."""
        call = self.kernel.checker.check(values)
        boundaries = self.kernel.boundaries(call, values)
        request, training = self._training(call)
        if call.empty:
            entry: Entry = partial(empty_forward, self.kernel.spec.attention, call, training.wiring)
        else:
            entry = training.forward_entry
        also = training.forward.aligned
        plan = self.kernel.plan(call, entry, values, boundaries, training.descriptors[0], also)
        plan.single = False
        found = self.kernel.run_first(plan, None if call.empty else request, values)
        return Forward.of(plan, training.wiring, found[: len(self.kernel.outputs)]), found

    def backward(self, values: list[Any], given: list[torch.Tensor]) -> list[torch.Tensor]:
        """Gradients of the floating arguments; given: saved rows, results, their gradients."""
        both = [*values, *given]
        key = signature(both)
        plan = self._backward.get(key)
        if plan is not None:
            return list(plan.run(both))
        call = self.kernel.checker.check(values)
        request, training = self._training(call)
        if call.empty:
            return empty_backward(self.kernel.spec.attention, call, training.wiring, values, given)
        descriptors = training.descriptors[1]
        boundaries = self.kernel.boundaries(call, values)
        entry = training.backward_entry
        plan = self.kernel.plan(call, entry, values, boundaries, descriptors)
        plan.single = False
        if descriptors:
            plan.copies += tuple(_copies(training.wiring, len(values), given))
            plan.plain = plan.plain and not plan.copies
        found = self.kernel.run_first(plan, request, both)
        _remember(self._backward, key, plan)
        return list(found)

    def training(self, call: Call) -> Training:
        """The files of a call, made if they are the first of their kind."""
        return self._training(call)[1]

    def _training(self, call: Call) -> tuple[Request, Training]:
        request = self.kernel.training_request(call)
        if not self.kernel.trained(request):
            self.kernel.no_capture(call)
        return request, self.kernel.training(request)


def shapes(
    attention: Attention, call: Call, wiring: Wiring, values: Values
) -> list[tuple[list[int], torch.dtype]]:
    """Shape and dtype of each saved row: in the layout of the first query stream."""
    declared = [tensor for tensor in attention.tensors if tensor.view is None]
    place = next((i for i, t in enumerate(declared) if t.role == "query"), 0)
    query = values[place]
    kept = zip(declared[place].axes, query.shape, strict=True)
    rows = [size for axis, size in kept if axis.role != "feature"]
    dtypes = {"half": query.dtype, "float32": torch.float32, "int64": torch.int64}
    return [(rows + [width] * (width > 0), dtypes[kind]) for width, kind in wiring.saved]


def empty_forward(
    attention: Attention, call: Call, wiring: Wiring, *values: Any
) -> tuple[torch.Tensor, ...]:
    """Results of a call without queries or keys, and saved rows nobody will read."""
    from attngen.runtime.empty import empty_results  # noqa: PLC0415 - rarely needed

    results = empty_results(attention, call, values)
    device = results[0].device
    saved = shapes(attention, call, wiring, values)
    return (*results, *(torch.zeros(s, dtype=d, device=device) for s, d in saved))


def empty_backward(
    attention: Attention, call: Call, wiring: Wiring, values: Values, given: Values
) -> list[torch.Tensor]:
    """Gradients of such a call, by torch through the definition: rows without keys may have some.

    A sink is the whole `lse` of a row without keys.
    """
    from attngen.runtime.empty import empty_results  # noqa: PLC0415 - rarely needed

    leaves = list(values)
    wanted = []
    for i in wiring.gradients:
        number = leaves[i] if isinstance(leaves[i], torch.Tensor) else torch.tensor(leaves[i])
        leaves[i] = number.detach().requires_grad_()
        wanted.append(leaves[i])
    with torch.enable_grad():
        results = empty_results(attention, call, leaves)
    seeds = given[len(given) - len(wiring.seeds) :]
    pairs = [(results[i], s) for i, s in zip(wiring.seeds, seeds, strict=True)]
    pairs = [(result, seed) for result, seed in pairs if result.requires_grad]
    if not pairs:
        return [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in wanted]
    found = torch.autograd.grad(
        [r for r, _ in pairs], wanted, [s for _, s in pairs], allow_unused=True
    )
    zeros = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in wanted)
    return [z if g is None else g.contiguous() for g, z in zip(found, zeros, strict=True)]


def _copies(wiring: Wiring, first: int, given: Sequence[torch.Tensor]) -> list[Copy]:
    """Rows over which no tensor descriptor fits are copied, as streams are."""
    return [(first + i, align) for i in wiring.rows if not aligned(given[i])]


def _remember(plans: dict[Hashable, Plan], key: Hashable | None, plan: Plan) -> None:
    if len(plans) >= PLANS:
        plans.clear()
    if key is not None:
        plans[key] = plan
