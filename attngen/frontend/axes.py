"""Which role each axis of a declaration has."""

from __future__ import annotations

from collections.abc import Sequence

from attngen.frontend.declared import STREAMS, Declarations
from attngen.frontend.mistake import wrong
from attngen.frontend.vocabulary import AXES, HEAD_AXES, POSITION_AXES
from attngen.ir.attention import Axis
from attngen.syntax import ast
from attngen.syntax.words import nearest

_COMMON_AXES = {"batch": "B", "heads": "H", "head": "H", "seq": "S", "n": "S", "l": "S", "len": "S"}


def axes_of(group: ast.Tensors, declared: Declarations) -> tuple[Axis, ...]:
    """The axes of a declaration, with their roles."""
    written = group.type.axes
    if group.role == "input":
        known = {*POSITION_AXES, *declared.position_names(*STREAMS)}
        return tuple(_input_axis(written, i, known, declared) for i in range(len(written)))
    if group.role == "state":
        return _state_axes(group, declared)
    return _stream_axes(group, declared)


def _axis(written: ast.Axis, role: str, declared: Declarations) -> Axis:
    name = written.name
    if not name:
        return Axis(str(written.offset), role, written.offset)
    sign = "-" if written.offset < 0 else "+"
    text = f"{name} {sign} {abs(written.offset)}" if written.offset else name
    size = declared.sizes.get(name, declared.params.get(name))
    if size is None:
        return Axis(text, role, None)
    if isinstance(size, bool) or not isinstance(size, int) or size + written.offset < 1:
        raise wrong(
            "E107",
            f"the axis `{text}` has the size {size}",
            written.span,
            "expected a whole number from 1",
            f"set `{name}` to a positive whole number",
        )
    return Axis(text, role, size + written.offset)


def _input_axis(
    written: Sequence[ast.Axis], i: int, positions: set[str], declared: Declarations
) -> Axis:
    axis, last = written[i], i == len(written) - 1
    if axis.name == "B":
        role = "batch"
    elif axis.name in HEAD_AXES or (not axis.name and axis.offset == 1 and not last):
        role = "head"
    elif axis.name in positions:
        role = "position"
    else:
        role = "feature"
    return _axis(axis, role, declared)


def _state_axes(group: ast.Tensors, declared: Declarations) -> tuple[Axis, ...]:
    def role(axis: ast.Axis) -> str:
        return "batch" if axis.name == "B" else "head" if axis.name in HEAD_AXES else "feature"

    axes = tuple(_axis(a, role(a), declared) for a in group.type.axes)
    features = [i for i, a in enumerate(axes) if a.role == "feature"]
    count = len(features)
    if count not in (1, 2) or features != list(range(len(axes) - count, len(axes))):
        raise wrong(
            "E107",
            "a state has one or two feature axes, which come last",
            group.type.span,
            f"found {count}",
            "write `f32[B, H, Dk, Dv]`",
        )
    return axes


def _stream_axes(group: ast.Tensors, declared: Declarations) -> tuple[Axis, ...]:
    written = group.type.axes
    if len(written) < 2:
        raise wrong(
            "E107",
            f"a {group.role} needs a position axis and a feature axis",
            group.type.span,
            f"found {len(written)} axes",
            f"write `{group.type.dtype.text}[S, D]`, or declare it with `input`",
        )
    paged = any(f.kind == "paged" for f in group.facts)
    named = any(a.name in POSITION_AXES for a in written[:-1])
    axes = tuple(
        _axis(a, _stream_role(written, i, paged, named), declared) for i, a in enumerate(written)
    )
    for role, most in (("batch", 1), ("head", 1), ("position", 2 if paged else 1)):
        places = [i for i, a in enumerate(axes) if a.role == role]
        if len(places) > most:
            raise wrong(
                "E107",
                f"a {group.role} has at most one {role} axis",
                written[places[most]].span,
                f"a second {role} axis",
                "leave it out, or write a feature axis last: `[B, H, S, D]`",
            )
    return axes


def _stream_role(written: Sequence[ast.Axis], i: int, paged: bool, named: bool) -> str:
    axis, last = written[i], len(written) - 1
    if i == last:
        if axis.name in AXES and not axis.offset:
            raise wrong(
                "E107",
                f"the last axis of a stream is its feature axis, not `{axis.name}`",
                axis.span,
                "expected a feature axis such as `D`",
                "add one: `[..., D]`",
            )
        return "feature"
    if axis.name == "B":
        return "batch"
    if axis.name in HEAD_AXES:
        return "head"
    if axis.name in POSITION_AXES or (paged and i < 2) or (not named and i == last - 1):
        return "position"
    if not axis.name:
        return "head"
    near = _COMMON_AXES.get(axis.name.lower()) or nearest(axis.name, AXES)
    raise wrong(
        "E107",
        f"found axis `{axis.name}` in a stream, expected one of {', '.join(AXES)}",
        axis.span,
        "neither batch, heads nor positions",
        f"did you mean `{near}`?" if near else "move it last, where the feature axis stands",
    )
