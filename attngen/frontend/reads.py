"""How a tensor is read: rows of streams, bare inputs, elements at explicit indices."""

from __future__ import annotations

from collections.abc import Sequence

from attngen.core.source import Span
from attngen.frontend.declare import STREAMS, Declarations
from attngen.frontend.mistake import Mistake, wrong
from attngen.ir.attention import Axis, Tensor
from attngen.ir.expr import Const, Expr, Index, Kind, Load, Row, Side
from attngen.syntax import ast


def stream_row(declared: Declarations, tensor: Tensor) -> Row:
    """The row of a stream at the current position; a view reads columns of its parent."""
    if declared.form == "recurrence":
        side = Side.TIME
    else:
        side = Side.QUERY if tensor.role == "query" else Side.KEY
    parent, start, _ = tensor.view or (tensor.name, 0, 0)
    return Row(parent, side, declared.extent(tensor.axes[-1]), start)


def bare_read(declared: Declarations, tensor: Tensor, span: Span) -> Expr:
    """A tensor's name alone, where its axes leave one reading."""
    if tensor.role in STREAMS:
        return stream_row(declared, tensor)
    index = [_own_index(declared, tensor, axis, span) for axis in tensor.axes]
    features = [i for i, axis in enumerate(tensor.axes) if axis.role == "feature"]
    if not features:
        return Load(tensor.name, tuple(i for i in index if i is not None), _kind(tensor))
    if features != [len(index) - 1]:
        raise _ambiguous(declared, tensor, span, "its feature axes leave several readings")
    return _row(declared, tensor, index[:-1], span)


def element(declared: Declarations, e: ast.Element, index: Sequence[Expr]) -> Expr:
    """`tensor[i, j]`: one element, or a row if only the feature axis is left out."""
    tensor = declared.tensors[e.tensor.text]
    if tensor.role != "input":
        raise wrong(
            "E112",
            f"`{tensor.name}` is a {tensor.role}; its row at the current position is its bare name",
            e.span,
            "cannot be indexed",
            f"write `{tensor.name}`",
        )
    missing = len(tensor.axes) - len(index)
    row = missing == 1 and tensor.axes[-1].role == "feature"
    if missing and not row:
        axes = ", ".join(a.name for a in tensor.axes)
        example = ", ".join(_example(declared, a) for a in tensor.axes)
        raise wrong(
            "E111",
            f"`{tensor.name}` is over [{axes}], found {_indices(len(index))}",
            e.span,
            f"expected {_indices(len(tensor.axes))}",
            f"write `{tensor.name}[{example}]`" if example else f"write `{tensor.name}`",
        )
    for axis, i, written in zip(tensor.axes, index, e.index, strict=False):
        _check_index(declared, tensor, axis, i, written.span)
    if row:
        return _row(declared, tensor, index, e.span)
    return Load(tensor.name, tuple(index), _kind(tensor))


def _indices(count: int) -> str:
    return f"{count} {'index' if count == 1 else 'indices'}"


def _kind(tensor: Tensor) -> Kind:
    if tensor.dtype.value == "bool":
        return "bool"
    return "int" if tensor.dtype.is_integer else "float"


def _own_index(declared: Declarations, tensor: Tensor, axis: Axis, span: Span) -> Expr | None:
    """The only index that fits an axis; None for a feature axis."""
    match axis.role:
        case "batch" if axis.name == "B":
            return Index("b")
        case "head":
            return _head_index(declared, tensor, axis, span)
        case "position":
            return _position_index(declared, tensor, axis, span)
        case "feature":
            return None
    raise _ambiguous(declared, tensor, span, f"the axis `{axis.name}` has no current index")


def _head_index(declared: Declarations, tensor: Tensor, axis: Axis, span: Span) -> Expr:
    if axis.size == 1:
        return Const(0)
    if declared.form == "recurrence" or axis.name in declared.head_names("query"):
        return Index("h")
    if axis.name in declared.head_names("key", "value"):
        return Index("h_kv")
    raise wrong(
        "E122",
        f"no stream has the head axis `{axis.name}` of `{tensor.name}`",
        span,
        "cannot tell which head is meant",
        f"write the index: `{tensor.name}[{', '.join(_example(declared, a) for a in tensor.axes)}]`",
    )


def _position_index(declared: Declarations, tensor: Tensor, axis: Axis, span: Span) -> Expr:
    if declared.form == "recurrence":
        return Index("t")
    query = axis.name in declared.position_names("query")
    key = axis.name in declared.position_names("key", "value")
    if query == key:
        why = "of queries and of keys" if query else "of no stream"
        raise _ambiguous(declared, tensor, span, f"`{axis.name}` counts positions {why}")
    return Index("q_idx" if query else "kv_idx")


def _row(declared: Declarations, tensor: Tensor, index: Sequence[Expr | None], span: Span) -> Row:
    width = declared.extent(tensor.axes[-1])
    if not tensor.dtype.is_float:
        raise wrong(
            "E110",
            f"a row holds real numbers, `{tensor.name}` holds {tensor.dtype.value}",
            span,
            "expected a real dtype",
            f"read one element: `{tensor.name}[...]` with {len(tensor.axes)} indices",
        )
    sides = {"q_idx": Side.QUERY, "kv_idx": Side.KEY, "t": Side.TIME}
    at = tensor.axis("position")
    place = index[at] if at is not None else None
    here = place.name if isinstance(place, Index) else ""
    plain = all(
        isinstance(i, Index | Const) and (axis.role != "head" or i.axes or axis.size == 1)
        for i, axis in zip(index, tensor.axes, strict=False)
    )
    if here not in sides or not plain or sum(a.role == "position" for a in tensor.axes) != 1:
        raise _ambiguous(declared, tensor, span, "only a row at the current position can be read")
    return Row(tensor.name, sides[here], width, 0)


def _check_index(declared: Declarations, tensor: Tensor, axis: Axis, i: Expr, span: Span) -> None:
    if i.kind != "int" or i.feature is not None:
        found = (
            "a row" if i.feature is not None else {"bool": "a bool"}.get(i.kind, "a real number")
        )
        raise wrong(
            "E112",
            f"an index is a whole number, found {found}",
            span,
            "expected a whole number",
            f"write `i32({span.text})`" if i.feature is None else "read one element of it",
        )
    if isinstance(i, Const) and (i.value < 0 or (axis.size is not None and i.value >= axis.size)):
        raise wrong(
            "E112",
            f"the index {i.value} is outside the axis `{axis.name}` of `{tensor.name}`",
            span,
            "counted from 0",
            "write `0`",
        )
    fits = _fitting(declared, axis)
    if isinstance(i, Index) and fits and i.name not in fits:
        raise wrong(
            "E112",
            f"`{i.name}` does not count along the axis `{axis.name}` of `{tensor.name}`",
            span,
            f"expected {' or '.join(f'`{f}`' for f in fits[:2])}",
            f"write `{fits[0]}`",
        )


def _fitting(declared: Declarations, axis: Axis) -> tuple[str, ...]:
    """Built-in indices that may stand for an axis as they are; any expression of them is free."""
    if axis.role == "batch":
        return ("b",)
    if axis.role == "head":
        if declared.form == "recurrence":
            return ("h",)
        query = axis.name in declared.head_names("query")
        key = axis.name in declared.head_names("key", "value")
        return ("h_kv",) if key and not query else ("h",) if query and not key else ("h", "h_kv")
    if axis.role == "position":
        if declared.form == "recurrence":
            return ("t",)
        query = axis.name in declared.position_names("query")
        key = axis.name in declared.position_names("key", "value")
        if key and not query:
            return ("kv_idx",)
        return ("q_idx", "q_pos") if query and not key else ("q_idx", "kv_idx", "q_pos")
    return ()


def _example(declared: Declarations, axis: Axis) -> str:
    fits = _fitting(declared, axis)
    return fits[0] if fits else "0"


def _ambiguous(declared: Declarations, tensor: Tensor, span: Span, why: str) -> Mistake:
    axes = [a for a in tensor.axes if a.role != "feature"] or list(tensor.axes)
    example = ", ".join(_example(declared, a) for a in axes)
    names = ", ".join(a.name for a in tensor.axes)
    return wrong(
        "E113",
        f"`{tensor.name}` over [{names}] cannot be read like this: {why}",
        span,
        "expected one reading",
        f"write the indices: `{tensor.name}[{example}]`",
    )
