"""The answers that a package is checked against: the definition in float64, on small inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from attngen.aot.launcher.answers import Answers, kept, stream
from attngen.aot.matrix import Choice
from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Tensor
from attngen.reference.execute import reference
from attngen.reference.inputs import fill_sizes, make_inputs
from attngen.runtime.training import Wiring

QUERIES, KEYS = {"forward": 70, "decode": 3}, {"forward": 200, "decode": 300}
STORED = 4096  # elements of an input that are kept as they were drawn
FLOATS = (Dtype.HALF, Dtype.F16, Dtype.BF16, Dtype.F32)


def stored_answers(choices: Sequence[tuple[Choice, Wiring | None]]) -> bytes:
    """The file of a spec: a case for prefill and one for decoding, for each set of sizes."""
    made = _Maker()
    for choice, wiring in choices:
        for form in ("forward", "decode"):
            made.case(choice, wiring, form)
    return Answers(made.cases, bytes(made.raw)).write()


class _Maker:
    def __init__(self) -> None:
        self.cases: list[dict[str, Any]] = []
        self.raw = bytearray()

    def case(self, choice: Choice, wiring: Wiring | None, form: str) -> None:
        attention = choice.attention
        lengths = _lengths(attention, dict(choice.sizes), form)
        drawn = make_inputs(attention, lengths, seed=1, half=torch.bfloat16)
        declared = [t for t in attention.tensors if t.view is None]
        inputs: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for number, tensor in enumerate(declared):
            own = drawn[tensor.name]
            if not isinstance(own, torch.Tensor):
                inputs[tensor.name], values[tensor.name] = {"number": own}, own
            elif tensor.dtype in FLOATS and (tensor.is_stream or own.numel() > STORED):
                inputs[tensor.name] = {"shape": list(own.shape)}
                values[tensor.name] = stream(number, own.shape)
            else:
                inputs[tensor.name], values[tensor.name] = self._keep(own), own
        gradients: dict[str, Any] = {}
        wanted = _wanted(declared, wiring) if form == "forward" else []
        leaves = {n: _leaf(v, n in wanted) for n, v in values.items()}
        results = reference(attention, leaves)
        if wanted:
            gradients = self._gradients(results, leaves, wanted)
        self.cases.append(
            {
                "form": form,
                "lengths": lengths,
                "inputs": inputs,
                "results": [self._answer(r.detach()) for r in results],
                "gradients": gradients,
            }
        )

    def _gradients(
        self, results: Sequence[torch.Tensor], leaves: Mapping[str, Any], wanted: list[str]
    ) -> dict[str, Any]:
        kinds = [r for r in results if r.is_floating_point()]
        pairs = [(r, stream(100 + i, r.shape).to(r.dtype)) for i, r in enumerate(kinds)]
        pairs = [(r, seed) for r, seed in pairs if r.requires_grad]
        found = torch.autograd.grad(
            [r for r, _ in pairs],
            [leaves[n] for n in wanted],
            [seed for _, seed in pairs],
            allow_unused=True,
        )
        zero = [torch.zeros_like(leaves[n]) for n in wanted]
        filled = [z if g is None else g for g, z in zip(found, zero, strict=True)]
        return {n: self._answer(g) for n, g in zip(wanted, filled, strict=True)}

    def _answer(self, result: torch.Tensor) -> dict[str, Any]:
        number = torch.float32 if result.is_floating_point() else torch.int32
        return self._keep(kept(result.contiguous()).to(number))

    def _keep(self, tensor: torch.Tensor) -> dict[str, Any]:
        """Store a tensor; halves as float32, whose bytes any version of torch reads alike."""
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        self.raw += bytes(-len(self.raw) % 8)
        at = len(self.raw)
        self.raw += tensor.contiguous().view(torch.uint8).numpy().tobytes()
        dtype = str(tensor.dtype).removeprefix("torch.")
        return {"at": at, "dtype": dtype, "shape": list(tensor.shape)}


def _lengths(attention: Attention, sizes: dict[str, int], form: str) -> dict[str, int]:
    queries = _positions(attention, ("query",))
    keys = _positions(attention, ("key", "value"))
    given = {n: QUERIES[form] for n in queries} | {n: KEYS[form] for n in keys}
    return fill_sizes(attention, {**sizes, **given})


def _positions(attention: Attention, roles: tuple[str, ...]) -> list[str]:
    axes = [a for t in attention.tensors if t.role in roles for a in t.axes]
    return [a.name for a in axes if a.role == "position" and a.name.isidentifier()]


def _wanted(declared: Sequence[Tensor], wiring: Wiring | None) -> list[str]:
    """Tensors with a gradient; numbers have none in a package."""
    if wiring is None:
        return []
    names = [declared[i] for i in wiring.gradients]
    return [t.name for t in names if not t.is_scalar]


def _leaf(value: Any, wanted: bool) -> Any:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    leaf = value.double()
    return leaf.requires_grad_() if wanted else leaf
