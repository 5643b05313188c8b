"""The recurrence form: updates of a state, walked in order at each step."""

from __future__ import annotations

from attngen.frontend import check, options
from attngen.frontend.attention import bind, result_name
from attngen.frontend.lower import Lowering
from attngen.frontend.mistake import Mistake, Report, wrong
from attngen.frontend.scope import Scope
from attngen.ir.expr import Expr, matrix
from attngen.ir.recurrence import Recurrence
from attngen.syntax import ast


def lower_recurrence(spec: ast.Spec, scope: Scope, report: Report) -> Recurrence | None:
    """The program of a recurrence spec; None if the report says why there is none."""
    lowering = Lowering(scope)
    updates: list[tuple[str, Expr]] = []
    if not scope.declared.failed:
        with report.statement():
            _check_streams(spec, scope)
    for item in spec.items:
        if not isinstance(item, ast.Bind):
            continue
        with report.statement():
            if item.names[0].text in scope.declared.states:
                _update(lowering, item, updates)
            else:
                _bind(lowering, item)
    outputs: tuple[tuple[str, Expr, int], ...] = ()
    with report.statement():
        outputs = () if scope.declared.failed else _outputs(spec, lowering)
    targets, schedule = options.targets(spec, report), options.schedule(spec, report)
    if report.found:
        return None
    declared = scope.declared
    return Recurrence(
        spec.name.text,
        tuple(t for t in declared.tensors.values() if t.name not in declared.states),
        tuple((scope.state(name), declared.tensors[name]) for name in declared.states),
        tuple(updates),
        outputs,
        tuple(declared.params.items()),
        targets,
        schedule,
        scope.names,
        scope.spans,
    )


def _update(lowering: Lowering, item: ast.Bind, updates: list[tuple[str, Expr]]) -> None:
    scope, word = lowering.scope, item.names[0]
    state = scope.state(word.text)
    try:
        value = lowering.statement(item.value)
        same = matrix(value) == matrix(state) and value.feature == state.feature
        if not same or value.kind == "bool":
            raise wrong(
                "E125",
                f"the state `{word.text}` is {check.describe(state)},"
                f" found {check.describe(value)}",
                item.value.span,
                f"expected {check.describe(state)}",
                f"write `{word.text} = {word.text} + outer(k, v)`",
            )
        updates.append((word.text, value))
    finally:
        scope.updates += 1


def _bind(lowering: Lowering, item: ast.Bind) -> None:
    word = item.names[0]
    if word.text in ("score", "mask", "gate", "sparsity", "lse"):
        raise wrong(
            "E126",
            f"`{word.text}` belongs to the attention form",
            word.span,
            "has no meaning here",
            f"give it its own name, such as `{word.text}_value`",
        )
    bind(lowering, item)


def _outputs(spec: ast.Spec, lowering: Lowering) -> tuple[tuple[str, Expr, int], ...]:
    scope = lowering.scope
    returns = [i for i in spec.items if isinstance(i, ast.Return)]
    if "out" in scope.failed:
        raise Mistake(None)
    if len(returns) > 1:
        raise wrong(
            "E102",
            "a second `return`",
            returns[1].span,
            "results are named once",
            "name all results in one: `return out, M`",
        )
    if returns:
        results: list[tuple[str, Expr, int]] = []
        for i, e in enumerate(returns[0].values):
            results.append(_result(lowering, e, i, [r[0] for r in results]))
        return tuple(results)
    if "out" not in scope.bound:
        state = next(iter(scope.declared.states), "M")
        raise wrong(
            "E117",
            "the recurrence has no result",
            spec.name.span,
            "binds no `out`",
            f"add `out = q @ {state}` or `return {state}`",
        )
    return (("out", *scope.bound["out"]),)


def _result(
    lowering: Lowering, e: ast.Expression, i: int, before: list[str]
) -> tuple[str, Expr, int]:
    scope = lowering.scope
    name = result_name(e, scope, i)
    if isinstance(e, ast.Name) and e.text in scope.failed:
        raise Mistake(None)
    if isinstance(e, ast.Name) and e.text in scope.bound:
        value, updates = scope.bound[e.text]
    else:
        value, updates = lowering.statement(e), scope.updates
    if name in before:
        if isinstance(e, ast.Name):
            raise wrong("E102", f"`{name}` is returned twice", e.span, "named before", "remove it")
        name = f"result{i + 1}"
    check.number(value, e.span, "as a result")
    return name, value, updates


def _check_streams(spec: ast.Spec, scope: Scope) -> None:
    declared = scope.declared
    if not declared.states:
        raise wrong(
            "E117",
            "a recurrence needs a state",
            spec.name.span,
            "no state is declared",
            "declare `state M : f32[B, H, Dk, Dv]`",
        )
    if len(declared.position_names("query", "key", "value")) > 1:
        names = " and ".join(sorted(declared.position_names("query", "key", "value")))
        raise wrong(
            "E107",
            f"all streams of a recurrence walk over one position axis, found {names}",
            spec.name.span,
            "expected one",
            "write the same position axis in all streams",
        )
