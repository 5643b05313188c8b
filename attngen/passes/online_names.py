"""Readable names for the entries of a plan: what the user called them, unique within the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attngen.ir.build import factors, is_number
from attngen.ir.expr import Expr, Load, Row, Softmax
from attngen.ir.online import Accumulator, OnlinePlan, Weights
from attngen.passes.online_place import Places


def named(plan: OnlinePlan, places: Places, reserved: Sequence[str]) -> OnlinePlan:
    """Entries named: `p`, `acc_v`, `sum_u`, `acc_uv`, `top`, none `reserved`."""
    taken = {*reserved, *(name for name, _ in plan.outputs)}
    classes = _classes(plan.classes, places, taken)
    accumulators = []
    for a in plan.accumulators:
        name = _unique(_accumulator(a, classes, places), taken)
        accumulators.append(replace(a, name=name))
    tops = [replace(t, name=_unique("top", taken)) for t in plan.tops]
    return replace(plan, classes=classes, accumulators=tuple(accumulators), tops=tuple(tops))


def _unique(base: str, taken: set[str]) -> str:
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}_{number}" if base[-1].isdigit() else f"{base}{number}"
    taken.add(name)
    return name


def _classes(classes: Sequence[Weights], places: Places, taken: set[str]) -> tuple[Weights, ...]:
    """A class takes the name of its softmax; else `p`, or p1, p2, ... when there are several."""
    of_score: dict[Expr, str] = {}
    for e, name in places.names.items():
        if isinstance(e, Softmax):
            of_score.setdefault(e.score, name)
    out = []
    for number, c in enumerate(classes, start=1):
        own = of_score.get(c.score, "p" if len(classes) == 1 else f"p{number}")
        out.append(replace(c, name=_unique(own, taken)))
    return tuple(out)


def _accumulator(a: Accumulator, classes: Sequence[Weights], places: Places) -> str:
    """`acc_` (rows) or `sum_` (numbers), weights if there are several classes, payload."""
    weights = [classes[c].name * n for c, n in a.weights]
    scalar = "" if is_number(a.scalar, 1) else "".join(_name(f, places) for f in factors(a.scalar))
    row = "" if a.row is None else "".join(_name(f, places) or "x" for f in factors(a.row))
    payload = scalar + row
    if len(classes) > 1 or not payload:
        payload = "_".join([*weights, *([payload] if payload else [])]) or "count"
    return ("sum_" if a.row is None else "acc_") + payload


def _name(e: Expr, places: Places) -> str:
    """The user's name of a value, or that of the tensor it reads; nothing for other expressions."""
    if e in places.names:
        return places.names[e]
    return e.tensor if isinstance(e, Row | Load) else ""
