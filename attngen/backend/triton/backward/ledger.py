"""What the host does around the backward kernels: arrays, sums, values per head."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from attngen.backend.triton.backward.elements import Elements
from attngen.backend.triton.host import Allocate, Let
from attngen.backend.value import Value, cast, shape_of, sum_over, variable
from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.dtype import Dtype

TORCH = {
    Dtype.F16: "torch.float16",
    Dtype.BF16: "torch.bfloat16",
    Dtype.F32: "torch.float32",
    Dtype.I32: "torch.int32",
}


@dataclass
class Ledger:
    """What the host does around the kernels.

    allocations, finishing: steps; parts: for each tensor the arrays that add up to its gradient;
    elements: sums by element, launched after all other kernels; wide: tensors to whose gradient
    several passes add: their parts stay in float32 until they are added up.
    """

    allocations: list[Allocate] = field(default_factory=list)
    finishing: list[Let] = field(default_factory=list)
    parts: dict[str, list[Value]] = field(default_factory=dict)
    elements: list[Elements] = field(default_factory=list)
    wide: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)

    def name(self, wish: str) -> str:
        """An array name not taken yet."""
        name, count = wish, 1
        while name in self.taken:
            name, count = f"{wish}_{count}", count + 1
        self.taken.add(name)
        return name

    def part(self, tensor: str, array: Value, fits: bool = True) -> None:
        """Add an array to the gradient of a tensor; fits: it has the tensor's dtype."""
        own = array if fits or tensor in self.wide else cast(array, tensor)
        self.parts.setdefault(tensor, []).append(own)

    def finish(
        self,
        tensor: str,
        array: str,
        have: list[str],
        want: list[str],
        fixed: Mapping[int, object] | None = None,
    ) -> None:
        """Host: sum the axes the tensor does not have, order the others as it has them.

        Heads of a group follow each other, so an axis of heads is one of key heads and groups.
        fixed: axes of the tensor that are read at one element, and which.
        """
        total = variable(array)
        heads = next((n for n in want if n not in have and (n == "one" or n[:2] == "h_")), None)
        if heads is not None:
            i = next(i for i, n in enumerate(have) if n in ("h", "h_kv"))
            total = Value("unflatten", (total, i, shape_of(tensor, want.index(heads))))
            have = [*have[:i], heads, "group", *have[i + 1 :]]
        drop = tuple(i for i, n in enumerate(have) if n not in want)
        left = [n for n in have if n in want]
        total = sum_over(total, drop) if drop else total
        named = [n for n in want if n]
        if left != named:
            total = Value("permute", (total, tuple(left.index(n) for n in named)))
        for axis, element in (fixed or {}).items():
            total = Value("place", (total, tensor, axis, element, len(want) - axis - 1))
        self.part(tensor, total, fits=False)

    def gradient(self, tensor: str) -> Value:
        """The sum of the parts, in order."""
        total = functools.reduce(Value.__add__, self.parts[tensor])
        return cast(total, tensor) if tensor in self.wide else total


def not_built(what: str) -> SpecError:
    """Error E430 for a gradient that has no kernel."""
    message = f"{what} is not built yet in the triton backend"
    return SpecError(
        Diagnostic("E430", message, help="mark the input `const`, or call under torch.no_grad()")
    )
