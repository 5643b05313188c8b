"""Targets, schedules and block sparsity: what does not change the formula."""

from __future__ import annotations

from collections.abc import Sequence

from attngen.core.diagnostics import SpecError
from attngen.core.target import TARGETS, find_target
from attngen.frontend import calls, check
from attngen.frontend.lower import Lowering
from attngen.frontend.mistake import Report, wrong
from attngen.frontend.vocabulary import SETTINGS
from attngen.ir.attention import Sparsity
from attngen.ir.expr import Const
from attngen.syntax import ast
from attngen.syntax.words import nearest


def targets(spec: ast.Spec, report: Report) -> tuple[str, ...]:
    """The targets a spec names, once each."""
    names: list[str] = []
    for item in spec.items:
        for word in item.names if isinstance(item, ast.Targets) else ():
            with report.statement():
                names += [_target(word)] if word.text not in names else []
    return tuple(names)


def _target(word: ast.Word) -> str:
    try:
        return find_target(word.text).name
    except SpecError:
        known = [t.name for t in TARGETS]
        near = nearest(word.text, known) or "sm_90"
        raise wrong(
            "E301",
            f"unknown target `{word.text}`; known targets are {', '.join(known)}",
            word.span,
            "not a known GPU",
            f"did you mean `{near}`?",
        ) from None


def schedule(spec: ast.Spec, report: Report) -> tuple[tuple[str, str | int | bool], ...]:
    """The settings of the schedule blocks."""
    settings: dict[str, str | int | bool] = {}
    for item in spec.items:
        for setting in item.settings if isinstance(item, ast.Schedule) else ():
            with report.statement():
                if setting.name.text in settings:
                    raise wrong(
                        "E302",
                        f"`{setting.name.text}` is set twice",
                        setting.span,
                        "set before",
                        "remove one of the two",
                    )
                settings[setting.name.text] = _setting(setting)
    return tuple(settings.items())


def _setting(setting: ast.Setting) -> str | int | bool:
    name, value = setting.name.text, setting.value
    legal = SETTINGS.get(name)
    if legal is None:
        near = nearest(name, SETTINGS)
        raise wrong(
            "E302",
            f"a schedule has no setting `{name}`; it has {', '.join(SETTINGS)}",
            setting.name.span,
            "unknown setting",
            f"did you mean `{near}`?" if near else "remove it",
        )
    if legal == "power":
        words, fine = "a power of two from 16 to 256", value in (16, 32, 64, 128, 256)
    elif isinstance(legal, range):
        words = f"a whole number from {legal.start} to {legal.stop - 1}"
        fine = isinstance(value, int) and value in legal
    else:
        listed = [f"`{v}`" for v in legal]
        words, fine = f"{', '.join(listed[:-1])} or {listed[-1]}", value in legal
    if not fine or isinstance(value, float | bool):
        raise wrong(
            "E303",
            f"`{name}` is {words}, found `{_text(value)}`",
            setting.span,
            f"expected {words}",
            f"write `{name} = {_example(legal)}`",
        )
    return value


def _example(legal: object) -> object:
    if legal == "power":
        return 128
    return legal.start + 1 if isinstance(legal, range) else list(legal)[-1]  # type: ignore[call-overload] # a tuple


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def sparsity(lowering: Lowering, bind: ast.Bind) -> Sparsity:
    """`blocks(...)` or a choice of blocks made at run time."""
    e = bind.value
    if not isinstance(e, ast.Call) or e.function.text not in (
        "blocks",
        "top_blocks",
        "threshold_blocks",
    ):
        raise wrong(
            "E206",
            "`sparsity` names the key blocks to visit",
            e.span,
            "expected `blocks`, `top_blocks` or `threshold_blocks`",
            "write `sparsity = blocks(index, count, size = (128, 128))`",
        )
    lowering.home = "sparsity"
    calls.check_call(lowering, e)
    named = {word.text: value for word, value in e.named}
    size = _size(lowering, named.get("size"), e)
    if e.function.text == "blocks":
        return Sparsity("blocks", size, _lists(lowering, e), span=e.span)
    lowering.home = "ranking"
    score = lowering.expression(e.args[0])
    check.scalar(score, e.args[0].span, "to rank blocks by")
    _check_pooled(e.args[0])
    options: list[tuple[str, str]] = []
    if e.function.text == "top_blocks":
        options.append(("count", str(_natural(lowering, named.get("count"), e, "count = 16"))))
    else:
        options.append(("alpha", repr(_alpha(lowering, named.get("alpha"), e))))
    if "keep" in named:
        options.append(("keep", " or ".join(_keep(lowering, named["keep"]))))
    return Sparsity(e.function.text, size, (), score, tuple(options), e.span)


def _check_pooled(e: ast.Expression, inside: bool = False) -> None:
    if isinstance(e, ast.Name) and not inside:
        raise wrong(
            "E206",
            f"blocks are ranked by means of their rows, found `{e.text}`",
            e.span,
            "expected a mean",
            f"write `mean({e.text})`",
        )
    pooled = inside or (isinstance(e, ast.Call) and e.function.text == "mean")
    for part in ast.parts(e):
        _check_pooled(part, pooled)


def _size(lowering: Lowering, e: ast.Expression | None, call: ast.Call) -> tuple[int, int]:
    fix = "write `size = (128, 128)`"
    if not isinstance(e, ast.Pair):
        raise wrong(
            "E206",
            f"`{call.function.text}` needs the size of its blocks",
            call.span if e is None else e.span,
            "expected `size = (queries, keys)`",
            fix,
        )
    sizes = [lowering.expression(x) for x in (e.a, e.b)]
    values = [s.value if isinstance(s, Const) and s.kind == "int" else 0 for s in sizes]
    if any(v < 16 or v & (v - 1) for v in map(int, values)):
        raise wrong(
            "E206",
            "a block has a power of two of queries and of keys, 16 or more",
            e.span,
            "expected powers of two",
            fix,
        )
    return int(values[0]), int(values[1])


def _lists(lowering: Lowering, e: ast.Call) -> tuple[str, ...]:
    declared = lowering.scope.declared.tensors
    names: list[str] = []
    for argument, axes in zip(e.args, (4, 3), strict=True):
        tensor = declared.get(argument.text) if isinstance(argument, ast.Name) else None
        if tensor is None or not tensor.dtype.is_integer or len(tensor.axes) != axes:
            shape = "[B, Hq, q_blocks, max_blocks]" if axes == 4 else "[B, Hq, q_blocks]"
            raise wrong(
                "E206",
                f"found `{argument.span.text[:40]}`, expected an input of whole numbers"
                f" with {axes} axes",
                argument.span,
                f"expected i32{shape}",
                f"declare `input {'index' if axes == 4 else 'count'} : i32{shape}`",
            )
        names.append(tensor.name)
    return tuple(names)


def _natural(lowering: Lowering, e: ast.Expression | None, call: ast.Call, usage: str) -> int:
    value = lowering.expression(e) if e is not None else None
    if not isinstance(value, Const) or value.kind != "int" or value.value < 1:
        raise wrong(
            "E206",
            f"`{call.function.text}` needs a constant whole number from 1",
            call.span if e is None else e.span,
            f"expected `{usage}`",
            f"write `{usage}`",
        )
    return int(value.value)


def _alpha(lowering: Lowering, e: ast.Expression | None, call: ast.Call) -> float:
    value = lowering.expression(e) if e is not None else None
    if not isinstance(value, Const) or value.kind == "bool" or not 0 < value.value < 1:
        raise wrong(
            "E206",
            "`threshold_blocks` needs a constant share between 0 and 1",
            call.span if e is None else e.span,
            "expected `alpha = 0.01`",
            "write `alpha = 0.01`",
        )
    return float(value.value)


def _keep(lowering: Lowering, e: ast.Expression) -> Sequence[str]:
    if isinstance(e, ast.Binary) and e.op == "or":
        return [*_keep(lowering, e.a), *_keep(lowering, e.b)]
    if isinstance(e, ast.Call) and e.function.text in ("first", "local"):
        lowering.home = "keep"
        calls.check_call(lowering, e)
        return [f"{e.function.text}({_natural(lowering, e.args[0], e, f'{e.function.text}(1)')})"]
    raise wrong(
        "E206",
        "`keep` names blocks that are always visited",
        e.span,
        "expected `first(n)`, `local(n)` or both joined by `or`",
        "write `keep = first(1) or local(2)`",
    )
