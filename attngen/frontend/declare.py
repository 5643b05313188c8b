"""Declarations: parameters, the roles of axes, tensors, views and their facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from attngen.core.dtype import Dtype
from attngen.frontend.mistake import Report, wrong
from attngen.frontend.vocabulary import AXES, HEAD_AXES, POSITION_AXES
from attngen.ir.attention import Axis, Tensor
from attngen.ir.expr import Extent
from attngen.syntax import ast
from attngen.syntax.words import nearest

Value: TypeAlias = int | float | bool
TO_THE_END = -1  # stop of a view that takes all columns of a width not known as a number


@dataclass
class Declarations:
    """What the declarations of a spec say.

    params: with overrides applied; sizes: feature axes fixed from outside; tensors in order, states
    included; failed: names whose declaration had a mistake.
    """

    form: str
    params: dict[str, Value] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)

    def position_names(self, *roles: str) -> set[str]:
        """Names of the position axes of the streams with these roles."""
        return {
            t.axes[at].name
            for t in self.tensors.values()
            if t.role in roles and not t.paged and (at := t.axis("position")) is not None
        }

    def head_names(self, *roles: str) -> set[str]:
        """Names of the head axes of the streams with these roles."""
        return {
            a.name
            for t in self.tensors.values()
            if t.role in roles
            for a in t.axes
            if a.role == "head"
        }

    def feature_names(self) -> set[str]:
        """Names of the feature axes (not of numbers)."""
        named = (a for t in self.tensors.values() for a in t.axes if a.role == "feature")
        return {a.name for a in named if a.name.isidentifier() and a.name not in self.params}

    def extent(self, axis: Axis) -> Extent:
        """A feature axis as expressions know it: its size if known, else its name."""
        return axis.name if axis.size is None else axis.size


def declare(
    spec: ast.Spec, declared: Declarations, report: Report, taken: set[str]
) -> Declarations:
    """Reads all tensors, then the facts that refer to other tensors."""
    streams = [i for i in spec.items if isinstance(i, ast.Tensors) and i.role in STREAMS]
    others = [i for i in spec.items if isinstance(i, ast.Tensors) and i.role not in STREAMS]
    order = [w.text for i in spec.items for w in _declared(i)]
    for group in (*streams, *others):
        with report.statement():
            _declare_group(group, declared, report, taken)
    for item in spec.items:
        if isinstance(item, ast.View):
            with report.statement():
                _declare_view(item, declared, taken)
    for group in (*streams, *others):
        for fact in group.facts:
            with report.statement():
                _apply(fact, group, declared)
    declared.failed = {name for name in order if name not in declared.tensors}
    rank = {name: i for i, name in enumerate(order)}
    declared.tensors = dict(sorted(declared.tensors.items(), key=lambda pair: rank[pair[0]]))
    return declared


STREAMS = ("query", "key", "value")


def _declared(item: ast.Item) -> Sequence[ast.Word]:
    if isinstance(item, ast.Tensors):
        return item.names
    return (item.name,) if isinstance(item, ast.View) else ()


def _declare_group(
    group: ast.Tensors, declared: Declarations, report: Report, taken: set[str]
) -> None:
    if group.role == "state" and declared.form == "attention":
        raise wrong(
            "E126",
            "`state` belongs to a recurrence",
            group.span,
            "no state in an attention spec",
            "start the file with `recurrence` instead of `attention`",
        )
    dtype = _dtype(group.type.dtype)
    if group.role in (*STREAMS, "state") and not dtype.is_float:
        raise wrong(
            "E110",
            f"a {group.role} holds real numbers, not {dtype.value}",
            group.type.dtype.span,
            "expected a real dtype",
            "write `half`, or declare it with `input`",
        )
    axes = _axes(group, declared)
    for word in group.names:
        with report.statement():
            _new_name(word, declared, taken)
            declared.tensors[word.text] = Tensor(word.text, group.role, dtype, axes, span=word.span)
            if group.role == "state":
                declared.states.append(word.text)


def _new_name(word: ast.Word, declared: Declarations, taken: set[str]) -> None:
    if word.text in taken:
        raise wrong(
            "E103",
            f"`{word.text}` is a word of the language",
            word.span,
            "expected a name of your own",
            f"call it `{word.text}_in`",
        )
    if word.text in declared.tensors or word.text in declared.params:
        raise wrong(
            "E102",
            f"`{word.text}` is declared twice",
            word.span,
            "declared before",
            f"call this one `{word.text}2`",
        )


def _dtype(word: ast.Word) -> Dtype:
    known = [d.value for d in Dtype]
    if word.text in known:
        return Dtype(word.text)
    common = {
        "float16": "f16",
        "fp16": "f16",
        "float32": "f32",
        "float": "f32",
        "fp32": "f32",
        "bfloat16": "bf16",
        "int": "i32",
        "int32": "i32",
        "int64": "i64",
        "fp8": "fp8_e4m3",
        "double": "f64",
    }
    near = common.get(word.text) or nearest(word.text, known)
    raise wrong(
        "E106",
        f"found dtype `{word.text}`, expected one of {', '.join(known)}",
        word.span,
        "unknown dtype",
        f"did you mean `{near}`?" if near else "write `half[...]`",
    )


def _axes(group: ast.Tensors, declared: Declarations) -> tuple[Axis, ...]:
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
    near = nearest(axis.name, AXES)
    raise wrong(
        "E107",
        f"found axis `{axis.name}` in a stream, expected one of {', '.join(AXES)}",
        axis.span,
        "neither batch, heads nor positions",
        f"did you mean `{near}`?" if near else "move it last, where the feature axis stands",
    )


def _declare_view(item: ast.View, declared: Declarations, taken: set[str]) -> None:
    _new_name(item.name, declared, taken)
    parent = declared.tensors.get(item.parent.text)
    if parent is None or not parent.is_stream or parent.role == "state":
        streams = [t.name for t in declared.tensors.values() if t.role in STREAMS]
        near = nearest(item.parent.text, streams) or next(iter(streams), "k")
        raise wrong(
            "E121",
            f"found `{item.parent.text}`, expected a stream to take columns of",
            item.parent.span,
            "not a declared query, key or value",
            f"write `{item.role} {item.name.text} = {near}[:64]`",
        )
    feature = parent.axes[-1]
    start, stop = item.start or 0, item.stop if item.stop is not None else feature.size
    if stop is None and start:
        raise wrong(
            "E121",
            f"the width of `{feature.name}` is not known here, so the columns cannot be counted",
            item.span,
            "expected an end",
            f"write `{item.parent.text}[{start}:{start + 64}]`",
        )
    if stop is not None and (stop <= start or (feature.size is not None and stop > feature.size)):
        raise wrong(
            "E121",
            f"columns {start} to {stop} are not in `{parent.name}`"
            + (f", which has {feature.size}" if feature.size is not None else ""),
            item.span,
            "out of range" if stop > start else "no columns",
            f"write `{item.parent.text}[:{feature.size or start + 64}]`",
        )
    base = parent.view or (parent.name, 0, TO_THE_END)
    width = None if stop is None else stop - start
    last = feature if width is None else Axis(str(width), "feature", width)
    last = feature if item.stop is None and not start else last
    end = TO_THE_END if stop is None else base[1] + stop
    declared.tensors[item.name.text] = replace(
        parent,
        name=item.name.text,
        role=item.role,
        axes=(*parent.axes[:-1], last),
        view=(base[0], base[1] + start, end),
        span=item.name.span,
    )


def _apply(fact: ast.Fact, group: ast.Tensors, declared: Declarations) -> None:
    tensors = [declared.tensors[w.text] for w in group.names if w.text in declared.tensors]
    change: Mapping[str, object]
    names = [_described_by(fact, word, declared) for word in fact.names]
    match fact.kind:
        case "const":
            change = {"const": True}
        case "sorted":
            _check_sorted(fact, group, tensors)
            change = {"sorted": True}
        case _:
            if group.role not in STREAMS:
                raise wrong(
                    "E120",
                    f"`{fact.kind}` describes how a stream is stored",
                    fact.span,
                    f"found on an input" if group.role == "input" else "found on a state",
                    f"remove `{fact.span.text}`",
                )
            _check_storage(fact, [declared.tensors[n] for n in names])
            change = {fact.kind: tuple(names) if fact.kind == "paged" else names[0]}
    for tensor in tensors:
        declared.tensors[tensor.name] = replace(declared.tensors[tensor.name], **change)  # type: ignore[arg-type] # the keys are fields
        for view in [t for t in declared.tensors.values() if t.view and t.view[0] == tensor.name]:
            declared.tensors[view.name] = replace(view, **change)  # type: ignore[arg-type] # as above


def _described_by(fact: ast.Fact, word: ast.Word, declared: Declarations) -> str:
    found = declared.tensors.get(word.text)
    if found is None or found.role != "input":
        near = nearest(word.text, [t.name for t in declared.tensors.values() if t.role == "input"])
        raise wrong(
            "E120",
            f"`{fact.kind}` refers to `{word.text}`, which is not a declared input",
            word.span,
            "expected the name of an input",
            f"did you mean `{near}`?" if near else f"declare it: `input {word.text} : i32[B + 1]`",
        )
    return found.name


def _check_storage(fact: ast.Fact, inputs: Sequence[Tensor]) -> None:
    ranks = {"packed": (1,), "paged": (2, 1), "scaled": (None,)}[fact.kind]
    types = {"packed": "i32[B + 1]", "paged": "i32[B, max_pages]", "scaled": "f32[B, H, S]"}
    for tensor, rank, word in zip(inputs, ranks, fact.names, strict=True):
        real = fact.kind == "scaled"
        if tensor.dtype.is_float != real or (rank is not None and len(tensor.axes) != rank):
            wanted = "i32[B]" if fact.kind == "paged" and rank == 1 else types[fact.kind]
            raise wrong(
                "E120",
                f"`{fact.kind}` cannot use `{tensor.name}` : {tensor.dtype.value} with"
                f" {len(tensor.axes)} axes",
                word.span,
                f"expected {wanted}",
                f"declare `input {tensor.name} : {wanted}`",
            )


def _check_sorted(fact: ast.Fact, group: ast.Tensors, tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        if tensor.role != "input" or tensor.axis("position") is None:
            raise wrong(
                "E205",
                f"`sorted` says that `{tensor.name}` never decreases along its position axis",
                fact.span,
                "it has no position axis" if tensor.role == "input" else "expected an input",
                f"remove `sorted`, or declare `input {tensor.name} : {group.type.dtype.text}[B, S] sorted`",
            )
