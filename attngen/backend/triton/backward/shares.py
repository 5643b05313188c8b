"""A backward of several passes over the keys: what each pass adds to sums and gradients.

A gradient is linear in the adjoints, and what a loop sums is an adjoint. So a gradient over the
sums of several passes is a sum of gradients over those of one pass each. Every pass stores its own;
the host adds them up in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.ir import build
from attngen.ir.backward import BackwardPlan, Gradient, HeadSum, Place
from attngen.ir.build import ZERO
from attngen.ir.expr import Axes, Binary, Cast, Dot, Expr, Known, Where
from attngen.ir.walk import walk

Parts: TypeAlias = dict[int | None, Expr]  # None: terms that no pass sums


def shares(
    plan: BackwardPlan,
) -> tuple[list[list[Gradient]], list[list[HeadSum]], dict[Known, list[Known]]]:
    """(gradients of each pass, sums of each pass, the parts of each sum that has several).

    What no pass sums belongs to the last pass, and so does what the host finishes.
    """
    last = len(plan.passes) - 1
    owner: dict[Expr, int] = {leaf: i for i, p in enumerate(plan.passes) for leaf in p.leaves}
    gradients: list[list[Gradient]] = [[] for _ in plan.passes]
    sums: list[list[HeadSum]] = [[] for _ in plan.passes]
    several: dict[Known, list[Known]] = {}
    for s in plan.sums:
        parts = _by_pass(s.value, owner, last)
        names = [s.leaf] if len(parts) == 1 else [_numbered(s.leaf, i) for i in parts]
        for leaf, (i, part) in zip(names, parts.items(), strict=True):
            sums[i].append(replace(s, leaf=leaf, value=part, place=_place(s.level, part, owner)))
        if len(parts) > 1:
            several[s.leaf] = names
    for g in plan.gradients:
        if g.place == "heads":
            gradients[last].append(g)
            continue
        for i, part in _by_pass(g.value, owner, last).items():
            own = replace(g, value=part, place=_place(g.of.level, part, owner))
            gradients[i].append(own)
    return gradients, sums, several


def _numbered(leaf: Known, i: int) -> Known:
    return Known(f"{leaf.name}_of_pass_{i + 1}", leaf.varies, leaf.width, leaf.number)


def _place(level: Axes, part: Expr, owner: Mapping[Expr, int]) -> Place:
    if level == Axes.KEY:
        return "keys"
    return "queries" if any(x in owner for x in walk(part)) else "rows"


def _by_pass(value: Expr, owner: Mapping[Expr, int], last: int) -> dict[int, Expr]:
    """The value by pass; terms without sums are the last pass's."""
    found = _split(value, owner)
    rest = found.pop(None, ZERO)
    if rest is not ZERO:
        found[last] = build.add(found[last], rest) if last in found else rest
    return {i: e for i, e in sorted(found.items(), key=lambda x: x[0] or 0) if i is not None}


def _split(e: Expr, owner: Mapping[Expr, int]) -> Parts:
    """Terms of a linear expression by the pass whose sums they hold."""
    if not any(x in owner for x in walk(e)):
        return {None: e}
    match e:
        case Known():
            return {owner[e]: e}
        case Binary(op="add", a=a, b=b):
            x, y = _split(a, owner), _split(b, owner)
            return {i: build.add(x.get(i, ZERO), y.get(i, ZERO)) for i in {**x, **y}}
        case Where(condition=condition, a=a, b=b):
            x, y = _split(a, owner), _split(b, owner)
            both = [
                i for i in {**x, **y} if x.get(i, ZERO) is not ZERO or y.get(i, ZERO) is not ZERO
            ]
            return {i: build.where(condition, x.get(i, ZERO), y.get(i, ZERO)) for i in both}
        case Cast(x=x, dtype=dtype):
            return {i: Cast(part, dtype) for i, part in _split(x, owner).items()}
        case Binary(op="mul", a=a, b=b) | Dot(a=a, b=b):
            x, y = _split(a, owner), _split(b, owner)
            join = Dot if isinstance(e, Dot) else build.mul
            if set(x) == {None}:
                return {i: join(a, part) for i, part in y.items()}
            if set(y) == {None}:
                return {i: join(part, b) for i, part in x.items()}
    message = "a gradient that is not a sum over the passes is not built yet in the triton backend"
    fix = "call the kernel under torch.no_grad()"
    raise SpecError(Diagnostic("E430", message, help=fix))
