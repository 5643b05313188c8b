"""Putting sizes and the 16-bit dtype into a spec: after it no `Size` node and no `half` is left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.dtype import Dtype
from attngen.core.source import Span
from attngen.ir.attention import Attention, Axis, Sparsity, Tensor
from attngen.ir.build import const
from attngen.ir.expr import Cast, Expr, Extent, Reduced, Row, Size
from attngen.ir.walk import rewrite, walk
from attngen.passes.simplify import moved

EXAMPLE = 128


def specialise(attention: Attention, sizes: Mapping[str, int], half: Dtype) -> Attention:
    """The spec with feature axes of `sizes` and `half` as that dtype; constants are computed again.

    Names in `sizes` that no axis has are left alone. Raises SpecError E320 for each feature axis
    without a size, E321 for a size below 1.
    """
    _check(attention, sizes)
    known = _Known(sizes, half)
    mask = None if attention.mask is None else known.value(attention.mask)
    outputs = tuple((name, known.value(e)) for name, e in attention.outputs)
    return replace(
        attention,
        tensors=tuple(known.tensor(t) for t in attention.tensors),
        mask=mask,
        outputs=outputs,
        sparsity=known.sparsity(attention.sparsity),
        names=moved(attention.names, known.memo),
        spans=moved(attention.spans, known.memo),
    )


class _Known:
    def __init__(self, sizes: Mapping[str, int], half: Dtype) -> None:
        self.sizes = sizes
        self.half = half
        self.memo: dict[Expr, Expr] = {}

    def value(self, e: Expr) -> Expr:
        return rewrite(e, self.node, self.memo)

    def node(self, e: Expr) -> Expr:
        match e:
            case Size(name=name):
                return const(self.sizes[name])
            case Row(tensor=tensor, side=side, width=width, start=start):
                return Row(tensor, side, self.extent(width), start)
            case Reduced(what=what, index=index, norms=norms, width=str() as width):
                return Reduced(what, index, norms, self.extent(width))
            case Cast(x=x, dtype=Dtype.HALF.value):
                return Cast(x, self.half.value)
            case _:
                return e

    def extent(self, extent: Extent) -> int:
        return int(extent) if str(extent).isdecimal() else self.sizes[str(extent)]

    def tensor(self, t: Tensor) -> Tensor:
        dtype = self.half if t.dtype is Dtype.HALF else t.dtype
        return replace(t, dtype=dtype, axes=tuple(self.axis(a) for a in t.axes))

    def axis(self, axis: Axis) -> Axis:
        if axis.size is not None or axis.role != "feature":
            return axis
        return replace(axis, size=self.extent(axis.name))

    def sparsity(self, s: Sparsity | None) -> Sparsity | None:
        return s if s is None or s.score is None else replace(s, score=self.value(s.score))


def _check(attention: Attention, sizes: Mapping[str, int]) -> None:
    """Every mistake at once: axes without a size, sizes below 1."""
    wanted = dict[str, Span | None]()
    for name, span in _extents(attention):
        if not name.isdecimal() and wanted.get(name) is None:
            wanted[name] = span
    found = [_missing(name, span) for name, span in wanted.items() if name not in sizes]
    found += [
        Diagnostic(
            "E321",
            f"the size of axis `{name}` is {sizes[name]}",
            span,
            help=f"give a size of at least 1: `--set {name}={EXAMPLE}`",
        )
        for name, span in wanted.items()
        if name in sizes and sizes[name] < 1
    ]
    if found:
        raise SpecError(found)


def _missing(name: str, span: Span | None) -> Diagnostic:
    message = f"the size of axis `{name}` is not known"
    return Diagnostic("E320", message, span, help=f"give it a size: `--set {name}={EXAMPLE}`")


def _extents(attention: Attention) -> Iterator[tuple[str, Span | None]]:
    """Names of feature extents with the place that asks for them."""
    for t in attention.tensors:
        for axis in t.axes:
            if axis.role == "feature" and axis.size is None:
                yield axis.name, t.span
    for e in walk(*_roots(attention)):
        if isinstance(e, Size):
            yield e.name, attention.spans.get(e)
        elif isinstance(e, Row) and isinstance(e.width, str):
            yield e.width, attention.spans.get(e)


def _roots(attention: Attention) -> list[Expr]:
    roots = [e for _, e in attention.outputs]
    sparse = attention.sparsity.score if attention.sparsity is not None else None
    return roots + [e for e in (attention.mask, sparse) if e is not None]
