"""The front door of the language: a source in, a checked program out."""

from __future__ import annotations

import math
from collections.abc import Mapping

from attngen.core.diagnostics import Diagnostic
from attngen.core.source import Source
from attngen.frontend.attention import lower_attention
from attngen.frontend.declare import Declarations, Value, declare
from attngen.frontend.lower import Lowering
from attngen.frontend.mistake import Report, wrong
from attngen.frontend.recurrence import lower_recurrence
from attngen.frontend.scope import Scope, taken_words
from attngen.ir.attention import Attention
from attngen.ir.expr import Const
from attngen.ir.recurrence import Recurrence
from attngen.syntax import ast, parse
from attngen.syntax.words import nearest


def load(source: Source, params: Mapping[str, Value] | None = None) -> Attention | Recurrence:
    """Parses and checks a spec.

    params: overrides of `param` values, and sizes of feature axes (`{"D": 128}`).
    Raises SpecError with up to ten diagnostics.
    """
    return lower(parse(source), params)


def lower(spec: ast.Spec, params: Mapping[str, Value] | None = None) -> Attention | Recurrence:
    """Checks a syntax tree and lowers it; see `load`."""
    report = Report()
    overrides = dict(params or {})
    declared = Declarations(spec.form)
    taken = taken_words(spec.form)
    _read_params(spec, declared, overrides, report, taken)
    declared.sizes = {k: v for k, v in _sizes(spec, overrides, declared, report).items()}
    declare(spec, declared, report, taken)
    _check_overrides(declared, overrides, report)
    scope = Scope(declared, failed=set(declared.failed))
    make = lower_attention if spec.form == "attention" else lower_recurrence
    program = make(spec, scope, report)
    report.stop_if_wrong()
    assert program is not None  # make() returns None only with a report
    return program


def _read_params(
    spec: ast.Spec,
    declared: Declarations,
    overrides: Mapping[str, Value],
    report: Report,
    taken: set[str],
) -> None:
    for item in spec.items:
        if not isinstance(item, ast.Param):
            continue
        with report.statement():
            name = item.name.text
            if name in declared.params:
                raise wrong(
                    "E102",
                    f"`{name}` is declared twice",
                    item.name.span,
                    "declared before",
                    f"call this one `{name}2`",
                )
            if name in taken:
                raise wrong(
                    "E103",
                    f"`{name}` is a word of the language",
                    item.name.span,
                    "expected a name of your own",
                    f"call it `{name}_value`",
                )
            declared.params[name] = 1  # so that a wrong value is one mistake only
            declared.params[name] = _value(item, declared, overrides)


def _value(item: ast.Param, declared: Declarations, overrides: Mapping[str, Value]) -> Value:
    name = item.name.text
    earlier = Declarations(declared.form, {k: v for k, v in declared.params.items() if k != name})
    default = Lowering(Scope(earlier)).statement(item.value)
    if not isinstance(default, Const):
        raise wrong(
            "E118",
            f"the value of the param `{name}` is not a constant",
            item.value.span,
            "expected a number, true or false",
            f"write `param {name} = 1.0`",
        )
    if name not in overrides:
        return default.value
    value = overrides[name]
    if default.kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default.value) or (isinstance(value, float) and math.isnan(value)):
        kinds = {"bool": "true or false", "int": "a whole number", "float": "a number"}
        raise wrong(
            "E118",
            f"the param `{name}` is {kinds[default.kind]}, set to {value!r}",
            item.span,
            f"expected {kinds[default.kind]}",
            f"set it to a value like `{item.value.span.text}`",
        )
    return value


def _sizes(
    spec: ast.Spec, overrides: Mapping[str, Value], declared: Declarations, report: Report
) -> dict[str, int]:
    axes = {a.name for i in spec.items if isinstance(i, ast.Tensors) for a in i.type.axes if a.name}
    sizes = {k: v for k, v in overrides.items() if k in axes and k not in declared.params}
    good = {
        k: v for k, v in sizes.items() if isinstance(v, int) and not isinstance(v, bool) and v > 0
    }
    for name in sizes.keys() - good.keys():
        report.found.append(
            Diagnostic(
                "E118",
                f"the size of the axis `{name}` is set to {sizes[name]!r}",
                spec.name.span,
                "expected a whole number from 1",
                f"write `--set {name}=128`",
            )
        )
    return good


def _check_overrides(
    declared: Declarations, overrides: Mapping[str, Value], report: Report
) -> None:
    known = {*declared.params, *declared.feature_names()}
    for name in sorted(overrides.keys() - known):
        near = nearest(name, known)
        report.found.append(
            Diagnostic(
                "E118",
                f"there is no param or feature axis `{name[:70]}` to set; the spec has "
                + (", ".join(sorted(known)) or "none"),
                None,
                "",
                f"did you mean `{near}`?"
                if near
                else f"declare it in the spec: `param {name[:70]} = ...`",
            )
        )
