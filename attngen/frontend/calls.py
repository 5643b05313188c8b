"""Functions of the language: arguments, places where they may stand, and what they build."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from attngen.frontend import check
from attngen.frontend.mistake import Mistake, wrong
from attngen.frontend.vocabulary import CASTS, FUNCTIONS, POINTWISE, Signature
from attngen.ir import build
from attngen.ir.expr import (
    Axes,
    Cast,
    Const,
    Expr,
    LogSumExp,
    Row,
    Softmax,
    Sum,
    Top,
    Uniform,
    matrix,
)
from attngen.syntax import ast
from attngen.syntax.words import nearest

if TYPE_CHECKING:
    from attngen.frontend.lower import Lowering

LARGEST_TOP = 128  # a list of the largest is kept in registers


def call(lowering: Lowering, e: ast.Call) -> Expr:
    """The value of a call; with two results, the second (the indices)."""
    signature = check_call(lowering, e)
    name = e.function.text
    if signature.home == "ranking":
        return _mean(lowering, e)
    args = [lowering.expression(a) for a in e.args]
    if name in ("argmin", "argmax", "topk"):
        return top(lowering, e)[1]
    if signature.home == "attention":
        return _over_keys(lowering, e, args)
    return _pointwise(e, args)


def check_call(lowering: Lowering, e: ast.Call) -> Signature:
    """Requires a known function, in its place, with arguments that fit."""
    name = e.function.text
    signature = FUNCTIONS.get(name)
    if signature is None:
        raise _unknown(lowering, e)
    _check_home(lowering, e, signature)
    if not signature.least <= len(e.args) <= signature.most:
        raise wrong(
            "E105",
            f"`{name}` takes {_count(signature)}, found {len(e.args)}",
            e.span,
            "wrong number of arguments",
            f"write `{signature.usage}`",
        )
    given: set[str] = set()
    for word, _ in e.named:
        if word.text not in signature.named or word.text in given:
            near = nearest(word.text, signature.named)
            raise wrong(
                "E105",
                f"`{name}` has no argument `{word.text}`"
                if word.text not in given
                else f"the argument `{word.text}` is given twice",
                word.span,
                "unexpected argument",
                f"did you mean `{near}`?"
                if near and word.text not in given
                else f"write `{signature.usage}`",
            )
        given.add(word.text)
    return signature


def _count(signature: Signature) -> str:
    if signature.least == signature.most:
        return f"{signature.least} argument" + ("s" if signature.least > 1 else "")
    return f"{signature.least} to {signature.most} arguments"


def _unknown(lowering: Lowering, e: ast.Call) -> Mistake:
    name = e.function.text
    declared = lowering.scope.declared
    if name in declared.tensors or name in lowering.scope.bound:
        return wrong(
            "E104",
            f"`{name}` is not a function",
            e.function.span,
            "found a value",
            f"write `{name}[...]` to read an element, `{name} * (...)` to multiply",
        )
    near = nearest(name, FUNCTIONS)
    return wrong(
        "E104",
        f"there is no function `{name[:70]}`",
        e.function.span,
        "unknown function",
        f"did you mean `{FUNCTIONS[near].usage}`?"
        if near
        else "the functions are listed in grammar/attn.lark; combine those",
    )


def _check_home(lowering: Lowering, e: ast.Call, signature: Signature) -> None:
    name, form = e.function.text, lowering.scope.form
    if signature.home in ("attention", "recurrence") and signature.home != form:
        raise wrong(
            "E126",
            f"`{name}` belongs to the {signature.home} form",
            e.function.span,
            "no keys to reduce over in a recurrence" if form == "recurrence" else "no state here",
            "write the sum over time as a state: `M = M + outer(k, v)`"
            if form == "recurrence"
            else "write `dot(a, b)`, or start the file with `recurrence`",
        )
    if signature.home in ("sparsity", "ranking", "keep") and lowering.home != signature.home:
        place = {
            "sparsity": "alone after `sparsity =`",
            "ranking": "in the score of `top_blocks` or `threshold_blocks`",
            "keep": "after `keep =`",
        }[signature.home]
        raise wrong(
            "E128",
            f"`{name}` may only stand {place}",
            e.span,
            "found elsewhere",
            "sum over keys with `sum(softmax(score) * v)`"
            if name == "mean"
            else f"write `sparsity = {FUNCTIONS['top_blocks'].usage}`",
        )


def _mean(lowering: Lowering, e: ast.Call) -> Expr:
    lowering.home = ""
    try:
        row = lowering.expression(e.args[0])
    finally:
        lowering.home = "ranking"
    if not isinstance(row, Row):
        raise wrong(
            "E109",
            f"found {check.describe(row)}, expected a query or key row in `mean`",
            e.args[0].span,
            "is not the row of a stream",
            "write `mean(q)`",
        )
    return row


def top(lowering: Lowering, e: ast.Call) -> tuple[Expr, Expr]:
    """Values and indices of argmin, argmax or topk."""
    check_call(lowering, e)
    name = e.function.text
    score = _score(lowering.expression(e.args[0]), e.args[0], name)
    count = 1
    if name == "topk":
        wanted = lowering.expression(e.args[1])
        if not isinstance(wanted, Const) or wanted.kind != "int":
            raise wrong(
                "E105",
                f"`topk` takes a constant count, found {check.describe(wanted)}",
                e.args[1].span,
                "expected a whole number known when the kernel is made",
                "write `topk(score, 10)`",
            )
        count = int(wanted.value)
        if not 1 <= count <= LARGEST_TOP:
            raise wrong(
                "E105",
                f"`topk` keeps 1 to {LARGEST_TOP} entries, found {count}",
                e.args[1].span,
                "out of range",
                f"write `{min(max(count, 1), LARGEST_TOP)}`",
            )
    if name == "argmin":
        score = build.neg(score)
    values, indices = Top(score, count, "values"), Top(score, count, "indices")
    return (build.neg(values) if name == "argmin" else values), indices


def _score(score: Expr, written: ast.Expression, name: str) -> Expr:
    check.scalar(score, written.span, f"in `{name}`")
    check.over_keys(score, written.span, name)
    return score


def _over_keys(lowering: Lowering, e: ast.Call, args: list[Expr]) -> Expr:
    name, x = e.function.text, args[0]
    match name:
        case "sum":
            check.number(x, e.args[0].span, "in `sum`")
            check.over_keys(x, e.args[0].span, name)
            return Sum(x)
        case "softmax" | "logsumexp":
            _score(x, e.args[0], name)
            sink = _sink(lowering, e)
            return Softmax(x, sink) if name == "softmax" else LogSumExp(x, sink)
        case "uniform":
            return _uniform(x, e.args[0])
        case _:
            return _dropout(e, args)


def _sink(lowering: Lowering, e: ast.Call) -> Expr | None:
    if not e.named:
        return None
    written = e.named[0][1]
    sink = lowering.expression(written)
    check.scalar(sink, written.span, "after `sink =`")
    if Axes.KEY in sink.axes:
        raise wrong(
            "E116",
            "a sink is one score beside those of the keys, found one that varies over the keys",
            written.span,
            "varies over the keys",
            "write one for each head: `sink[h]`",
        )
    return sink


def _uniform(seed: Expr, written: ast.Expression) -> Expr:
    check.whole(seed, written.span, "as seed")
    if seed.axes:
        raise wrong(
            "E110",
            "a seed is one whole number for the whole call",
            written.span,
            "varies over positions or heads",
            "declare `input seed : i64`",
        )
    return Uniform(seed)


def _dropout(e: ast.Call, args: list[Expr]) -> Expr:
    x, rate, seed = args
    check.number(x, e.args[0].span, "in `dropout`")
    uniform = _uniform(seed, e.args[2])
    share = build.number(rate)
    if share is None or not 0 <= share < 1:
        raise wrong(
            "E105",
            f"a dropout rate is a constant from 0 to below 1, found `{check.describe(rate)}`"
            if share is None
            else f"a dropout rate is from 0 to below 1, found {share}",
            e.args[1].span,
            "not a probability below 1",
            "write `0.1`, or a param",
        )
    kept = build.mul(x, Const(1 / (1 - share))) if share else x
    return build.where(build.binary("lt", uniform, rate), build.ZERO, kept) if share else x


def _pointwise(e: ast.Call, args: list[Expr]) -> Expr:
    name = e.function.text
    if name in CASTS:
        return Cast(args[0], name)
    spans = tuple(a.span for a in e.args)
    match name:
        case "dot":
            return check.dot(args[0], args[1], (spans[0], spans[1]), e.span)
        case "outer":
            return check.outer(args[0], args[1], (spans[0], spans[1]))
        case "where":
            return _where(e, args)
        case "min" | "max" if len(args) == 1:
            _score(args[0], e.args[0], name)
            largest = Top(args[0] if name == "max" else build.neg(args[0]), 1, "values")
            return largest if name == "max" else build.neg(largest)
    for x, written in zip(args, e.args, strict=True):
        check.number(x, written.span, f"in `{name}`")
    if name in POINTWISE:
        return check.fits(build.unary(name, args[0]), e.span)
    for x in args[1:]:
        check.agree("+", args[0], x, e.span)
    if name == "softcap":
        return _softcap(e, args)
    return functools.reduce(lambda a, b: build.binary(name, a, b), args)


def _softcap(e: ast.Call, args: list[Expr]) -> Expr:
    x, cap = args
    check.scalar(cap, e.args[1].span, "as cap")
    value = build.number(cap)
    if value is not None and not value > 0:
        raise wrong(
            "E105",
            f"the cap of a soft cap is positive, found {value}",
            e.args[1].span,
            "not positive",
            "write `softcap(x, 50.0)`",
        )
    return build.mul(cap, build.unary("tanh", build.div(x, cap)))


def _where(e: ast.Call, args: list[Expr]) -> Expr:
    condition, a, b = args
    check.boolean(condition, e.args[0].span, "as condition of `where`")
    if (a.kind == "bool") != (b.kind == "bool"):
        at = e.args[1] if a.kind == "bool" else e.args[2]
        check.number(a if a.kind == "bool" else b, at.span, "beside the other choice of `where`")
    if (matrix(a) is None) != (matrix(b) is None) and not (a.feature is None or b.feature is None):
        raise wrong(
            "E109",
            f"found {check.describe(a)} and {check.describe(b)} in `where`",
            e.span,
            "expected equal shapes",
            "scale both rows to one shape",
        )
    check.agree("+", a, b, e.span)
    return build.where(condition, a, b)
