"""The attention form: statements to results over reduced rows."""

from __future__ import annotations

from collections.abc import Sequence

from attngen.core.source import Span
from attngen.frontend import calls, check, options
from attngen.frontend.lower import Lowering
from attngen.frontend.mistake import Mistake, Report, wrong
from attngen.frontend.scope import Scope
from attngen.ir import build
from attngen.ir.attention import Attention, Sparsity, Tensor
from attngen.ir.expr import Axes, Const, Expr, LogSumExp, Row, Side, Softmax, Sum, Top
from attngen.ir.walk import walk
from attngen.syntax import ast

REDUCTIONS = (Softmax, Sum, LogSumExp, Top)


def lower_attention(spec: ast.Spec, scope: Scope, report: Report) -> Attention | None:
    """The program of an attention spec; None if the report says why there is none."""
    lowering = Lowering(scope)
    if not scope.declared.failed:
        with report.statement():
            _check_streams(spec, scope)
    sparsity: Sparsity | None = None
    for item in spec.items:
        if not isinstance(item, ast.Bind):
            continue
        lowering.home = ""
        with report.statement():
            if item.names[0].text == "sparsity":
                scope.failed.add("sparsity")
                sparsity = options.sparsity(lowering, item)
            else:
                bind(lowering, item)
    outputs: tuple[tuple[str, Expr], ...] = ()
    lowering.home = ""
    with report.statement():
        outputs = () if scope.declared.failed else _outputs(spec, lowering)
    targets, schedule = options.targets(spec, report), options.schedule(spec, report)
    if report.found:
        return None
    mask = scope.bound["mask"][0] if "mask" in scope.bound else None
    declared = scope.declared
    return Attention(
        spec.name.text,
        tuple(declared.tensors.values()),
        None if mask is build.TRUE else mask,
        outputs,
        tuple(declared.params.items()),
        sparsity,
        _same_length(scope),
        targets,
        schedule,
        scope.names,
        scope.spans,
    )


def bind(lowering: Lowering, item: ast.Bind) -> None:
    """`name = value` or `value, index = argmin(x)`; the names count as bound even if it fails."""
    scope = lowering.scope
    for word in item.names:
        scope.check_new(word)
    scope.failed.update(w.text for w in item.names)
    if len(item.names) > 1:
        values: Sequence[Expr] = _both(lowering, item)
    else:
        values = (lowering.statement(item.value),)
    for word, value in zip(item.names, values, strict=True):
        _check_reserved(word.text, value, item.value.span)
        scope.failed.discard(word.text)
        scope.bind(word, value)


def _both(lowering: Lowering, item: ast.Bind) -> tuple[Expr, Expr]:
    e = item.value
    tops = ("argmin", "argmax", "topk")
    if len(item.names) != 2 or not isinstance(e, ast.Call) or e.function.text not in tops:
        raise wrong(
            "E119",
            f"{len(item.names)} names for one value",
            item.names[0].span.to(item.names[-1].span),
            "only argmin, argmax and topk give two results",
            "give each name its own statement",
        )
    lowering.statement(e)
    return calls.top(lowering, e)


def _check_reserved(name: str, value: Expr, span: Span) -> None:
    match name:
        case "score":
            check.scalar(value, span, "as `score`")
            if Axes.KEY not in value.axes:
                raise wrong(
                    "E115",
                    "`score` is a number for each key, found one that no key changes",
                    span,
                    "has no key axis",
                    "write `score = dot(q, k) * rsqrt(D)`",
                )
        case "mask":
            _check_mask(value, span)
        case "gate":
            check.number(value, span, "as `gate`")
            _check_reduced("gate", value, span)
        case "out":
            check.number(value, span, "as `out`")
            _check_reduced("out", value, span)
        case "lse":
            check.scalar(value, span, "as `lse`")
            _check_reduced("lse", value, span)


def _check_mask(value: Expr, span: Span) -> None:
    text = " ".join(span.text.split())[:40]
    if value.feature is not None:
        raise wrong(
            "E202",
            f"a mask is one bool for each query and key, found {check.describe(value)}",
            span,
            "has a feature axis",
            f"contract it: `dot({text}, ...) > 0`",
        )
    if value.kind != "bool":
        raise wrong(
            "E201",
            f"a mask is a bool (true keeps), found {check.describe(value)}",
            span,
            "expected a comparison",
            f"write `mask = {text} != 0`",
        )
    if isinstance(value, Const) and not value.value:
        raise wrong(
            "E203",
            "the mask keeps nothing",
            span,
            "is always false",
            "remove the statement to keep everything",
        )
    if any(isinstance(e, REDUCTIONS) for e in walk(value)):
        raise wrong(
            "E204",
            "a mask decides what is reduced, so it cannot hold a reduction over keys",
            span,
            "holds a reduction",
            "give the row value as an input, such as `limit[b, h, q_idx]`",
        )


def _check_reduced(name: str, value: Expr, span: Span) -> None:
    text = " ".join(span.text.split())
    text = text if len(text) <= 60 else "..."
    if Axes.KEY in value.axes:
        raise wrong(
            "E114",
            f"`{name}` is one value for each query, found one for each query and key",
            span,
            "varies over the keys",
            f"reduce it: `sum({text})`",
        )


def _outputs(spec: ast.Spec, lowering: Lowering) -> tuple[tuple[str, Expr], ...]:
    scope = lowering.scope
    if "out" in scope.failed or "gate" in scope.failed:
        raise Mistake(None)
    returns = [i for i in spec.items if isinstance(i, ast.Return)]
    if len(returns) > 1:
        raise wrong(
            "E102",
            "a second `return`",
            returns[1].span,
            "results are named once",
            "name all results in one: `return out, lse`",
        )
    if "out" not in scope.bound and _wants_out(returns):
        scope.bind(ast.Word("out", spec.name.span), _default_out(spec, scope))
    if "gate" in scope.bound and "out" in scope.bound:
        _apply_gate(scope)
    if returns:
        return tuple(_results(returns[0], lowering))
    names = [n for n in ("out", "lse") if n in scope.bound]
    return tuple((n, scope.bound[n][0]) for n in names)


def _wants_out(returns: Sequence[ast.Return]) -> bool:
    if not returns:
        return True
    return any(n.text == "out" for v in returns[0].values for n in ast.names_in(v))


def _apply_gate(scope: Scope) -> None:
    out, gate = scope.bound["out"][0], scope.bound["gate"][0]
    span = scope.spans.get(gate)
    if span is not None:
        check.agree("*", out, gate, span)
    gated = build.mul(out, gate)
    if out in scope.names and scope.names[out] == "out":
        del scope.names[out]
    scope.names.setdefault(gated, "out")
    scope.bound["out"] = (gated, 0)


def _results(item: ast.Return, lowering: Lowering) -> list[tuple[str, Expr]]:
    results: list[tuple[str, Expr]] = []
    for i, e in enumerate(item.values):
        value = lowering.statement(e)
        check.number(value, e.span, "as a result")
        _check_reduced(e.span.text if isinstance(e, ast.Name) else "a result", value, e.span)
        name = result_name(e, lowering.scope, i)
        if name in [n for n, _ in results]:
            if isinstance(e, ast.Name):
                raise wrong(
                    "E102",
                    f"`{name}` is returned twice",
                    e.span,
                    "named before",
                    "remove it",
                )
            name = f"result{i + 1}"
        results.append((name, value))
    return results


def result_name(e: ast.Expression, scope: Scope, i: int) -> str:
    """What a result is called: its own name, or the only bound name in it, or its place."""
    if isinstance(e, ast.Name) and (e.text in scope.bound or e.text in scope.declared.tensors):
        return e.text
    inside = {n.text for n in ast.names_in(e) if n.text in scope.bound}
    if len(inside) == 1 and not isinstance(e, ast.Name):
        return inside.pop()
    taken = {*scope.bound, *scope.declared.tensors, *scope.declared.params}
    return next(n for n in (f"result{i + 1}" + "_" * j for j in range(70)) if n not in taken)


def _default_out(spec: ast.Spec, scope: Scope) -> Expr:
    values = [t for t in scope.declared.tensors.values() if t.role == "value"]
    if "score" in scope.failed:
        raise Mistake(None)
    if "score" not in scope.bound or len(values) != 1:
        missing = (
            "`score`" if "score" not in scope.bound else f"one value stream, not {len(values)}"
        )
        raise wrong(
            "E117",
            f"without `out` the result is sum(softmax(score) * v), which needs {missing}",
            spec.name.span,
            "has no result",
            "bind `score = dot(q, k) * rsqrt(D)`"
            if "score" not in scope.bound
            else "bind `out = sum(softmax(score) * v)`",
        )
    width = scope.declared.extent(values[0].axes[-1])
    parent, start, _ = values[0].view or (values[0].name, 0, 0)
    return Sum(
        build.mul(Softmax(scope.bound["score"][0], None), Row(parent, Side.KEY, width, start))
    )


def _check_streams(spec: ast.Spec, scope: Scope) -> None:
    tensors = scope.declared.tensors.values()
    for role in ("query", "key"):
        if not any(t.role == role for t in tensors):
            letter = role[0]
            raise wrong(
                "E117",
                f"an attention spec needs a {role}",
                spec.name.span,
                f"no {role} is declared",
                f"declare `{role} {letter} : half[B, H, S, D]`",
            )
    for roles in (("query",), ("key", "value")):
        streams = [t for t in tensors if t.role in roles]
        for other in streams[1:]:
            _check_same_walk(streams[0], other)
    _check_groups(
        [t for t in tensors if t.role == "query"], [t for t in tensors if t.role == "key"]
    )


def _check_same_walk(first: Tensor, other: Tensor) -> None:
    def position(t: Tensor) -> str:
        at = t.axis("position")
        return t.axes[at].name if at is not None else ""

    if not first.view and not other.view and position(first) != position(other):
        raise wrong(
            "E107",
            f"`{first.name}` and `{other.name}` are walked together, over `{position(first)}` and"
            f" `{position(other)}`",
            other.span,
            f"expected the position axis `{position(first)}`",
            f"write `{position(first)}` in the axes of `{other.name}`",
        )


def _check_groups(queries: Sequence[Tensor], keys: Sequence[Tensor]) -> None:
    for query in queries:
        for key in keys:
            a, b = query.axis("head"), key.axis("head")
            many = query.axes[a].size if a is not None else 1
            few = key.axes[b].size if b is not None else 1
            if many is not None and few is not None and (few == 0 or many % few):
                raise wrong(
                    "E122",
                    f"{many} heads of `{query.name}` cannot share {few} of `{key.name}`",
                    key.span,
                    f"{few} does not divide {many}",
                    f"give `{key.name}` a number of heads that divides {many}",
                )


def _same_length(scope: Scope) -> bool:
    tensors = [t for t in scope.declared.tensors.values() if t.is_stream]
    positions = {t.axes[at].name for t in tensors if (at := t.axis("position")) is not None}
    storage = {(t.packed, t.paged) for t in tensors}
    return len(positions) == 1 and len(storage) == 1 and not any(t.paged for t in tensors)
