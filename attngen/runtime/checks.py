"""What a kernel is called with: every mistake is found, named and refused before any launch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Axis, Tensor
from attngen.runtime.bind import expectation, found, parameters, torch_dtype
from attngen.runtime.interface import Interface, feature_names
from attngen.runtime.scalars import FAR, scalars

DTYPES = {
    "float16": Dtype.F16,
    "bfloat16": Dtype.BF16,
    "float32": Dtype.F32,
    "float64": Dtype.F64,
    "int8": Dtype.I8,
    "int32": Dtype.I32,
    "int64": Dtype.I64,
    "bool": Dtype.BOOL,
    "float8_e4m3fn": Dtype.FP8_E4M3,
    "float8_e5m2": Dtype.FP8_E5M2,
}
HALVES = (Dtype.F16, Dtype.BF16, Dtype.F32)  # float32 where `half` stands: for exact comparisons
SHIFTED = re.compile(r"\s*([A-Za-z]\w*)\s*([+-])\s*(\d+)\s*")
FARTHEST = 1 << 40  # bytes: strides of tensor descriptors are smaller; addresses are 64 bits wide


@dataclass(frozen=True)
class Call:
    """The facts of a checked call.

    sizes: feature axes -> size (a kernel is compiled for these); lengths: all other named axes;
    half: what `half` stands for; device: "cpu", "cuda:0", ...; copies: positions of arguments whose
    feature axis is not contiguous; q_len, kv_len, heads, batch: of the streams (of packed ones the
    number of tokens); wide: names of arguments with a stride that no descriptor holds.
    """

    sizes: Mapping[str, int]
    lengths: Mapping[str, int]
    half: Dtype
    device: str
    q_len: int
    kv_len: int
    heads: int
    batch: int
    copies: tuple[int, ...] = ()
    wide: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to launch for."""
        return 0 in (self.q_len, self.kv_len, self.heads, self.batch)


@dataclass
class Checker:
    """The checks of one spec; `check` reads shapes, dtypes and strides, never the contents."""

    spec: Attention | Interface
    declared: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.interface = self.spec if isinstance(self.spec, Interface) else Interface.of(self.spec)
        self.declared = parameters(self.interface)
        self.scalars = scalars(self.interface)

    def check(self, values: Sequence[Any]) -> Call:
        """The facts of a call; CallError with up to ten diagnostics, codes E503 to E515."""
        pairs = [(t, v) for t, v in zip(self.declared, values, strict=True) if not t.is_scalar]
        _raise([d for t, v in pairs for d in _one_tensor(t, v)])
        for tensor, value in zip(self.declared, values, strict=True):
            if tensor.is_scalar:
                self.scalars[tensor.name].convert(value)
        _raise([*_devices(pairs), *_halves(pairs)])
        axes = _Axes()
        for tensor, value in pairs:
            axes.read(tensor, tuple(value.shape))
        for tensor, value in pairs:
            axes.read_shifted(tensor, tuple(value.shape))
        _raise([*axes.problems, *_heads(pairs)])
        return self._facts(pairs, axes.known(), values)

    def _facts(
        self, pairs: Sequence[tuple[Tensor, Any]], sizes: dict[str, int], values: Sequence[Any]
    ) -> Call:
        features = feature_names(self.interface)
        query, key = _stream(pairs, "query"), _stream(pairs, "key")
        declared = list(zip(self.declared, values, strict=True))
        halves = (dtype_of(v) for t, v in pairs if t.dtype is Dtype.HALF)
        return Call(
            sizes={name: sizes[name] for name in features if name in sizes},
            lengths={name: size for name, size in sizes.items() if name not in features},
            half=next(halves, None) or Dtype.BF16,
            device=str(pairs[0][1].device),
            q_len=_extent(query, "position"),
            kv_len=_extent(key, "position"),
            heads=_extent(query, "head"),
            batch=_batch(pairs, query),
            copies=tuple(i for i, (t, v) in enumerate(declared) if _ragged_feature(t, v)),
            wide=tuple(t.name for t, v in pairs if _farthest(t, v) >= FARTHEST),
        )


def dtype_of(value: Any) -> Dtype | None:
    """The language's name of a torch dtype, or None."""
    return DTYPES.get(str(value.dtype).removeprefix("torch."))


def _raise(problems: Sequence[Diagnostic]) -> None:
    if problems:
        raise CallError(problems)


def _one_tensor(tensor: Tensor, value: Any) -> Iterator[Diagnostic]:
    """Type, layout, dtype and rank of one argument; the first mistake hides the others."""
    name, expected = tensor.name, f"expected {expectation(tensor)}, found {found(value)}"
    if not hasattr(value, "is_sparse"):
        fix = f"pass {name} as a torch tensor, for example torch.as_tensor({name})"
        yield Diagnostic("E503", f"{name} is not a tensor: {expected}", help=fix)
    elif str(value.layout) != "torch.strided" or value.is_complex() or value.is_quantized:
        kind = "complex" if value.is_complex() else "not a dense tensor"
        fix = f"pass {name}.abs() or its real part" if value.is_complex() else f"{name}.to_dense()"
        yield Diagnostic("E511", f"{name} is {kind}: {expected}", help=fix)
    elif not _dtype_fits(tensor.dtype, dtype_of(value)):
        fix = f"{name}.to(torch.{torch_dtype(tensor.dtype)})"
        yield Diagnostic("E508", f"{name} has the wrong dtype: {expected}", help=fix)
    elif value.ndim != len(tensor.axes):
        fix = f"reshape {name} to [{', '.join(a.name for a in tensor.axes)}]"
        axes = f"{value.ndim} axes instead of {len(tensor.axes)}"
        yield Diagnostic("E504", f"{name} has {axes}: {expected}", help=fix)


def _dtype_fits(declared: Dtype, given: Dtype | None) -> bool:
    return given in HALVES if declared is Dtype.HALF else given is declared


def _devices(pairs: Sequence[tuple[Tensor, Any]]) -> Iterator[Diagnostic]:
    first, reference = pairs[0]
    for tensor, value in pairs:
        if value.device.type not in ("cpu", "cuda"):
            message = f"{tensor.name} is on {value.device}: kernels run on GPUs and on the CPU"
            yield Diagnostic("E510", message, help=f'{tensor.name}.to("cuda")')
        elif value.device != reference.device:
            message = f"{tensor.name} is on {value.device}, but {first.name} on {reference.device}"
            fix = f"{tensor.name}.to({first.name}.device)"
            yield Diagnostic("E510", f"{message}: found {found(value)}", help=fix)


def _halves(pairs: Sequence[tuple[Tensor, Any]]) -> Iterator[Diagnostic]:
    halves = [(t, v) for t, v in pairs if t.dtype is Dtype.HALF]
    for tensor, value in halves[1:]:
        first, reference = halves[0]
        if value.dtype != reference.dtype:
            message = (
                f"{tensor.name} is {found(value)}, but {first.name} is {found(reference)}: "
                "expected one dtype for everything declared half"
            )
            fix = f"{tensor.name}.to({first.name}.dtype)"
            yield Diagnostic("E509", message, help=fix)


@dataclass
class _Axes:
    """Sizes of named axes as they are met; disagreements become diagnostics."""

    seen: dict[str, tuple[int, str, tuple[int, ...]]] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)

    def known(self) -> dict[str, int]:
        return {name: size for name, (size, _, _) in self.seen.items()}

    def read(self, tensor: Tensor, shape: tuple[int, ...]) -> None:
        """Axes that are a name or a number."""
        for axis, size in zip(tensor.axes, shape, strict=True):
            if axis.size is not None:
                self._fixed(tensor, axis, size, shape)
            elif axis.name.isidentifier():
                self._agree(tensor, _qualified(tensor, axis), size, shape)
            if axis.role == "feature" and size == 0:
                message = f"{tensor.name}: feature axis {axis.name} is empty, found {list(shape)}"
                self.problems.append(Diagnostic("E506", message, help="pass at least one column"))
            if size >= FAR:
                message = f"{tensor.name}: axis {axis.name} is {size}, expected less than 2**30"
                self.problems.append(Diagnostic("E506", message, help="split the tensor"))

    def read_shifted(self, tensor: Tensor, shape: tuple[int, ...]) -> None:
        """Axes such as `B + 1`, which may be the only ones that tell B."""
        for axis, size in zip(tensor.axes, shape, strict=True):
            if axis.size is None and (match := SHIFTED.fullmatch(axis.name)):
                shift = int(match[3]) * (1 if match[2] == "+" else -1)
                self._agree(tensor, match[1], size - shift, shape, axis.name)

    def _fixed(self, tensor: Tensor, axis: Axis, size: int, shape: tuple[int, ...]) -> None:
        if size != axis.size:
            message = (
                f"{tensor.name}: expected {expectation(tensor)}, found shape {list(shape)}, "
                f"where {size} stands in the place of {axis.size}"
            )
            fix = f"change the {axis.size} in the spec, or pass a tensor of that size"
            self.problems.append(Diagnostic("E506", message, help=fix))

    def _agree(
        self, tensor: Tensor, name: str, size: int, shape: tuple[int, ...], text: str = ""
    ) -> None:
        known, owner, other = self.seen.setdefault(name, (size, tensor.name, shape))
        if size < 0:
            message = f"{tensor.name}: axis {text} is too short, found shape {list(shape)}"
            self.problems.append(Diagnostic("E505", message, help=f"pass {text} elements"))
        elif known != size:
            message = (
                f"{tensor.name} has {name} = {size} (shape {list(shape)}, {expectation(tensor)}), "
                f"but {owner} has {name} = {known} (shape {list(other)})"
            )
            fix = f"pass a {tensor.name} with {name} = {known}"
            self.problems.append(Diagnostic("E505", message, help=fix))


def _qualified(tensor: Tensor, axis: Axis) -> str:
    """Tokens packed by different boundaries are different numbers of tokens."""
    packed = tensor.packed is not None and axis.role == "position"
    return f"{axis.name} of {tensor.packed}" if packed else axis.name


def _heads(pairs: Sequence[tuple[Tensor, Any]]) -> Iterator[Diagnostic]:
    """Every count of heads divides the query's."""
    query, value = _stream(pairs, "query")
    count = _extent((query, value), "head")
    for tensor, other in pairs:
        axis = tensor.axis("head")
        size = 1 if axis is None else other.shape[axis]
        if (size == 0 and count > 0) or (size > 0 and count % size):
            message = (
                f"{tensor.name} has {size} heads (shape {list(other.shape)}), which do not divide "
                f"the {count} heads of {query.name} (shape {list(value.shape)})"
            )
            yield Diagnostic("E507", message, help="heads are shared in groups of equal size")


def _stream(pairs: Sequence[tuple[Tensor, Any]], role: str) -> tuple[Tensor, Any]:
    found_pair = next((pair for pair in pairs if pair[0].role == role), None)
    return found_pair or next(pair for pair in pairs if pair[0].is_stream)


def _extent(pair: tuple[Tensor, Any], role: str) -> int:
    axis = pair[0].axis(role)
    if axis is None:
        return 1
    extent: int = pair[1].shape[axis]  # symbolic while a graph is traced: no `int` here
    return extent


def _batch(pairs: Sequence[tuple[Tensor, Any]], query: tuple[Tensor, Any]) -> int:
    if query[0].packed is None:
        return _extent(query, "batch")
    boundaries = next(v for t, v in pairs if t.name == query[0].packed)
    count: int = boundaries.shape[0]
    return max(0, count - 1)


def _ragged_feature(tensor: Tensor, value: Any) -> bool:
    if tensor.is_scalar or not tensor.axes or tensor.axes[-1].role != "feature":
        return False
    return bool(value.ndim > 1 and value.stride(-1) != 1)


def _farthest(tensor: Tensor, value: Any) -> int:
    """Bytes of the longest stride; rows are below 2**30 (E506), and their offsets 64 bits wide."""
    if tensor.is_scalar or not tensor.axes:
        return 0
    steps = (value.stride(i) for i in range(value.ndim) if value.shape[i] > 1)
    longest: int = max(steps, default=0)
    return longest * int(value.element_size())
