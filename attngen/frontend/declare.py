"""Declarations: parameters, the roles of axes, tensors, views and their facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attngen.core.dtype import Dtype
from attngen.frontend.axes import axes_of
from attngen.frontend.declared import STREAMS, TO_THE_END, Declarations
from attngen.frontend.facts import apply_fact
from attngen.frontend.mistake import Report, wrong
from attngen.ir.attention import Axis, Tensor
from attngen.syntax import ast
from attngen.syntax.words import nearest


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
                apply_fact(fact, group, declared)
    declared.failed = {name for name in order if name not in declared.tensors}
    rank = {name: i for i, name in enumerate(order)}
    declared.tensors = dict(sorted(declared.tensors.items(), key=lambda pair: rank[pair[0]]))
    return declared


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
    axes = axes_of(group, declared)
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
