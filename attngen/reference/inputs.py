"""Random inputs for any spec: shapes from axis names, contents that honour what the spec says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Axis, Tensor
from attngen.ir.recurrence import Recurrence
from attngen.reference.purpose import Purpose, purpose_of
from attngen.reference.sizes import Argument

DEFAULTS = {"B": 2, "H": 4, "Hq": 4, "Hv": 4, "Hkv": 2, "G": 2}
POSITIONS, FEATURES = 128, 64

_DTYPES = {
    Dtype.F16: torch.float16,
    Dtype.BF16: torch.bfloat16,
    Dtype.F32: torch.float32,
    Dtype.F64: torch.float64,
    Dtype.FP8_E4M3: torch.float8_e4m3fn,
    Dtype.FP8_E5M2: torch.float8_e5m2,
    Dtype.I32: torch.int32,
    Dtype.I64: torch.int64,
    Dtype.I8: torch.int8,
    Dtype.BOOL: torch.bool,
}


def make_inputs(
    program: Attention | Recurrence,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    *,
    half: torch.dtype = torch.bfloat16,
    distribution: str = "normal",
    permuted: bool = False,
    states: bool = False,
) -> dict[str, Argument]:
    """A tensor (or a number, for a run-time scalar) for each declared name, views left out.

    sizes: of axes by name; the others get defaults that fit. half: what `half` is this time.
    distribution of the streams: "normal", "peaky" (3 times wider) or "integers" (sparse, small).
    permuted: same shapes, leading axes in the opposite memory order, features still adjacent.
    states: also make initial states of a recurrence.

    Integers are made for their use: ascending ids if `sorted`, boundaries, page tables, lengths,
    lists of blocks, positions, small ids. Gates of a recurrence never let its state grow.
    """
    maker = _Maker(program, dict(sizes or {}), torch.Generator().manual_seed(seed), half)
    declared = [t for t in program.tensors if t.view is None]
    if states and isinstance(program, Recurrence):
        declared += [tensor for _, tensor in program.states]
    made = {t.name: maker.make(t, distribution) for t in declared}
    return {name: _place(value, device, permuted) for name, value in made.items()}


def fill_sizes(program: Attention | Recurrence, sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes for every axis name of a spec: those given, then defaults that agree with them."""
    out = dict(sizes)
    declared = list(program.tensors)
    if isinstance(program, Recurrence):
        declared += [tensor for _, tensor in program.states]
    given = [out[n] for n in ("S", "Sq", "Skv", "T") if n in out]
    length = given[0] if given else POSITIONS
    for axis in itertools.chain.from_iterable(t.axes for t in declared):
        if axis.size is None and axis.name.isidentifier() and axis.name not in out:
            fallback = length if axis.role == "position" else FEATURES
            out[axis.name] = DEFAULTS.get(axis.name, fallback)
    if any(t.packed is not None for t in declared):
        out.setdefault("B", DEFAULTS["B"] + 1)  # only `B + 1` is an axis then
    return out | {k: v for k, v in _block_sizes(program, out, sizes).items() if k not in sizes}


@dataclass
class _Maker:
    """Makes tensors one by one; remembers boundaries that have to agree."""

    program: Attention | Recurrence
    given: dict[str, int]
    generator: torch.Generator
    half: torch.dtype

    def __post_init__(self) -> None:
        self.sizes = fill_sizes(self.program, self.given)

    def make(self, tensor: Tensor, distribution: str) -> Argument:
        """One tensor or scalar."""
        shape = tuple(self._size(axis) for axis in tensor.axes)
        purpose = purpose_of(self.program, tensor)
        if tensor.dtype is Dtype.BOOL:
            return torch.rand(shape, generator=self.generator) < 0.8
        if tensor.dtype.is_quantised:
            raise ValueError(f"{tensor.name}: no inputs for {tensor.dtype.value} yet")
        if tensor.dtype.is_integer:
            value = self._integers(tensor, shape, purpose)
            return int(value) if not shape else value.to(_DTYPES[tensor.dtype])
        value = self._floats(tensor, shape, purpose, distribution)
        if not shape:
            return float(value)
        return value.to(_DTYPES.get(tensor.dtype, self.half))

    def _size(self, axis: Axis) -> int:
        if axis.size is not None:
            return axis.size
        if axis.name in self.sizes:
            return self.sizes[axis.name]
        base, sign, number = axis.name.replace(" ", "").replace("-", "+-").partition("+")
        return self.sizes[base] + int(number) if sign else FEATURES

    def _floats(
        self, tensor: Tensor, shape: tuple[int, ...], purpose: Purpose, distribution: str
    ) -> torch.Tensor:
        if tensor.is_stream:
            return self._rows(tensor, shape, distribution)
        near = torch.rand(shape, generator=self.generator)
        match purpose.kind:
            case "scale":
                return 0.5 + near
            case "decay":
                return -0.01 - 0.3 * near
            case "growth" | "rate":
                return 0.05 + 0.3 * near if purpose.kind == "growth" else 0.1 + 0.8 * near
        if all(axis.role == "head" for axis in tensor.axes):
            return 0.05 + 0.45 * near
        return 0.5 * torch.randn(shape, generator=self.generator)

    def _rows(self, tensor: Tensor, shape: tuple[int, ...], distribution: str) -> torch.Tensor:
        x = torch.randn(shape, generator=self.generator)
        if distribution == "peaky":
            x = 3 * x
        elif distribution == "integers":
            some = torch.rand(shape, generator=self.generator) < 0.25
            x = torch.randint(-3, 4, shape, generator=self.generator).float() * some
        if isinstance(self.program, Recurrence) and tensor.role == "key":
            # a delta rule with longer keys than 1 is not a contraction
            x = x / x.norm(dim=-1, keepdim=True).clamp(min=1.0)
        return x

    def _integers(self, tensor: Tensor, shape: tuple[int, ...], purpose: Purpose) -> torch.Tensor:
        match purpose.kind:
            case "boundaries":
                return self._boundaries(shape[0], self._bound(purpose.axis))
            case "table":
                return self._table(shape, self._bound(purpose.axis))
            case "lengths":
                return self._between(shape, *self._cache_lengths(purpose.axis))
            case "blocks":
                return self._block_list(shape, self._bound(purpose.axis))
            case "count":
                return self._between(shape, 1, max(1, self._bound(purpose.axis)))
            case "seed":
                return self._between(shape, 1, 2**62 if tensor.dtype is Dtype.I64 else 2**30)
            case "position":
                return self._between(shape, 1, max(1, self._length()))
            case "index":
                return self._between(shape, 0, max(0, self._bound(purpose.axis) - 1))
            case "ascending":
                position = tensor.axis("position")
                starts = torch.rand(shape, generator=self.generator) < 1 / 16
                return starts.long().cumsum(len(shape) - 1 if position is None else position)
        return self._between(shape, 1 if not shape else 0, 3)

    def _bound(self, axis: str) -> int:
        """Size of an axis given by name or number."""
        return int(axis) if axis.isdigit() else self.sizes[axis]

    def _between(self, shape: tuple[int, ...], low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high + 1, shape, generator=self.generator)

    def _length(self) -> int:
        axes = (t.axes[i] for t in self.program.tensors if (i := t.axis("position")) is not None)
        return max((axis.size or self.sizes.get(axis.name, 1) for axis in axes), default=POSITIONS)

    def _boundaries(self, count: int, tokens: int) -> torch.Tensor:
        """0, random ascending cuts, the number of tokens."""
        cuts = self._between((max(count - 2, 0),), 0, tokens).sort().values
        ends = torch.tensor([0]), torch.tensor([tokens])
        return torch.cat([ends[0], cuts, ends[1]])[:count]

    def _table(self, shape: tuple[int, ...], pages: int) -> torch.Tensor:
        """Each sequence has pages of its own while there are enough."""
        order = torch.randperm(pages, generator=self.generator)
        return order[torch.arange(shape[0] * shape[1]) % pages].view(shape)

    def _cache_lengths(self, capacity: str) -> tuple[int, int]:
        """From the number of queries to what the pages hold."""
        most = self.sizes[capacity]
        queries = next(t for t in self.program.tensors if t.role == "query")
        position = queries.axis("position")
        least = 1 if position is None else self._size(queries.axes[position])
        return min(least, most), most

    def _block_list(self, shape: tuple[int, ...], blocks: int) -> torch.Tensor:
        """Distinct blocks in ascending order along the last axis."""
        ranks = torch.rand(*shape[:-1], max(blocks, shape[-1]), generator=self.generator)
        return ranks.argsort(-1)[..., : shape[-1]].clamp(max=blocks - 1).sort(-1).values


def _block_sizes(
    program: Attention | Recurrence, sizes: Mapping[str, int], given: Mapping[str, int]
) -> dict[str, int]:
    """Axes that follow from others: pages of a cache, blocks of a sparsity list."""
    out: dict[str, int] = {}
    for tensor in program.tensors:
        if tensor.paged is not None:
            slots = tensor.axes[1].size or sizes[tensor.axes[1].name]
            table = next(t for t in program.tensors if t.name == tensor.paged[0])
            width = -(-2 * POSITIONS // slots)
            width = given.get(table.axes[1].name, width)
            out[table.axes[1].name] = width
            out[tensor.axes[0].name] = sizes.get(table.axes[0].name, 1) * width + 1
            out[f"capacity of {tensor.name}"] = width * slots
    sparsity = program.sparsity if isinstance(program, Attention) else None
    if sparsity is not None and sparsity.kind == "blocks":
        index = next(t for t in program.tensors if t.name == sparsity.tensors[0])
        lengths = [_positions(program, role, sizes) for role in ("query", "key")]
        counts = [-(-n // size) for n, size in zip(lengths, sparsity.size, strict=True)]
        out |= {index.axes[-2].name: counts[0], index.axes[-1].name: counts[1]}
        out["key blocks"] = counts[1]
    return out


def _positions(program: Attention | Recurrence, role: str, sizes: Mapping[str, int]) -> int:
    tensor = next(t for t in program.tensors if t.role == role)
    position = tensor.axis("position")
    return 1 if position is None else sizes[tensor.axes[position].name]


def _place(value: Argument, device: torch.device | str, permuted: bool) -> Argument:
    if not isinstance(value, torch.Tensor):
        return value
    value = value.to(device)
    return _permute(value) if permuted else value


def _permute(x: torch.Tensor) -> torch.Tensor:
    """The same values with the leading axes in the opposite order in memory."""
    if x.dim() < 3:
        return x
    order = [*reversed(range(x.dim() - 1)), x.dim() - 1]
    return x.permute(order).contiguous().permute(order)
