"""`explain`: what the compiler understood of a spec and what it decided, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from attngen.core.target import Target
from attngen.ir.build import is_number
from attngen.ir.expr import Binary, Expr, Reduced
from attngen.ir.index import TRUE
from attngen.ir.maskplan import MaskPlan, Range
from attngen.ir.online import Accumulator, OnlinePlan, Weights
from attngen.ir.program import Program
from attngen.ir.text import formula, spec_text
from attngen.ir.walk import walk
from attngen.runtime.backends import AnySchedule
from attngen.runtime.predict import Prediction, predict
from attngen.runtime.words import describe_mask
from attngen.schedule.cute import CuteSchedule


def explain(
    program: Program,
    schedule: AnySchedule,
    target: Target,
    sizes: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
    reason: str = "",
) -> str:
    """The whole report; `sizes` are axes by name for the predictions, `notes` end it.

    reason: why this backend.
    """
    sections = [
        ("formula", spec_text(program.attention).rstrip().splitlines()),
        (_passes(program.online), _online(program)),
        ("mask", _mask(program.mask)),
        (f"schedule for {target.name}", _schedule(schedule, target, reason)),
        ("predicted", _predicted(predict(program, schedule, sizes or {}))),
        ("notes", [*program.online.notes, *program.mask.notes, *notes]),
    ]
    parts = (
        "\n".join([title, *(f"  {line}".rstrip() for line in body)])
        for title, lines in sections
        if (body := list(lines))
    )
    return "\n\n".join(parts) + "\n"


def _passes(plan: OnlinePlan) -> str:
    count = plan.stages
    return "one pass over the keys" if count <= 1 else f"{count} passes over the keys"


def _online(program: Program) -> Iterator[str]:
    plan, names = program.online, program.attention.names
    for weights in plan.classes:
        yield f"{weights.name} = exp({formula(weights.score, names)} - m){_stage(plan, weights)}"
        yield f"    {_bounds(weights)}"
    for accumulator in plan.accumulators:
        width = accumulator.row.feature if accumulator.row is not None else None
        shape = f"  [{width}]" if width is not None else ""
        terms = _terms(plan, accumulator)
        yield f"{accumulator.name} += {terms}{shape}{_stage(plan, accumulator)}"
    for top in plan.tops:
        many = f"the {top.count} largest" if top.count > 1 else "the largest"
        yield f"{top.name} = {many} of {formula(top.score, names)}, with indices"
    finals = _finals(plan)
    for name, e in plan.outputs:
        yield f"{name} = {finals[e] if e in finals else formula(e, finals)}"


def _stage(plan: OnlinePlan, item: Weights | Accumulator) -> str:
    return f"  (pass {item.stage})" if plan.stages > 1 else ""


def _bounds(weights: Weights) -> str:
    if math.isfinite(weights.high):
        low, high = f"{weights.low:.6g}", f"{weights.high:.6g}"
        return f"the score lies in [{low}, {high}], so no running maximum is needed"
    return "m is the running maximum of the score; sums are rescaled when it grows"


def _terms(plan: OnlinePlan, accumulator: Accumulator) -> str:
    weights = [
        plan.classes[index].name + (f"**{power}" if power != 1 else "")
        for index, power in accumulator.weights
    ]
    scalar = [] if is_number(accumulator.scalar, 1) else [formula(accumulator.scalar)]
    row = [] if accumulator.row is None else [formula(accumulator.row)]
    return " * ".join([*weights, *scalar, *row]) or "1"


def _finals(plan: OnlinePlan) -> dict[Expr, str]:
    """What each row value is after the loop, in terms of the accumulators."""
    reduced = (e for e in walk(*(e for _, e in plan.outputs)) if isinstance(e, Reduced))
    return {e: _final(plan, e) for e in reduced}


def _final(plan: OnlinePlan, e: Reduced) -> str:
    match e.what:
        case "moment":
            name, norms = plan.accumulators[e.index].name, [_norm(plan, n) for n in e.norms]
            return " / ".join([name, *norms])
        case "lse":
            return f"(m + log({_norm(plan, e)}))"
        case _:
            return f"{plan.tops[e.index].name}.{e.what}"


def _norm(plan: OnlinePlan, e: Expr) -> str:
    """The sum of weights whose logarithm `e` is; a sink adds one more weight."""
    match e:
        case Reduced(what="lse", index=index):
            return f"sum_{plan.classes[index].name}"
        case Binary(op="logaddexp", a=a, b=sink):
            return f"({_norm(plan, a)} + exp({formula(sink)} - m))"
        case _:
            return f"exp({formula(e)})"


def _mask(plan: MaskPlan) -> Iterator[str]:
    yield describe_mask(plan.formula)
    if plan.formula is TRUE:
        return
    yield f"kept: {str(plan.formula).removeprefix('(').removesuffix(')')}"
    yield f"keys visited for queries q0 <= q < q1: {_ranges(plan.forward.outer)}"
    yield f"of these without a test: {_ranges(plan.forward.full)}"
    if plan.forward.hulled:
        yield f"{plan.forward.hulled} ranges were joined into one that covers them"
    for leftover in plan.forward.leftovers:
        yield f"no bound follows from {leftover}: empty tiles are skipped at run time"
    for need in plan.needs:
        yield f"needs {need} >= 1 at run time, else every tile is visited"
    if plan.never_empty is TRUE:
        yield "a row always keeps a key: no guard against empty rows"
    else:
        yield f"a row keeps a key if {plan.never_empty}; else it gives 0 and lse = -inf"


def _ranges(ranges: Sequence[Range]) -> str:
    return "; ".join(f"{r.lo} <= k < {r.hi}" for r in ranges) or "none"


def _schedule(schedule: AnySchedule, target: Target, reason: str) -> Iterator[str]:
    if reason:
        backend = "cute" if isinstance(schedule, CuteSchedule) else "triton"
        yield f"backend {backend}: {reason}"
    yield schedule.describe()
    yield f"tiles of {schedule.block_q} queries by {schedule.block_k} keys"
    how = "hardware tensor descriptors" if schedule.loads == "descriptor" else "pointers"
    yield f"keys and values are loaded through {how}, {schedule.stages} tiles deep"
    fits = target.shared_memory // 1024
    yield f"{fits} KiB of shared memory for one program, {target.multiprocessors} multiprocessors"


def _predicted(cost: Prediction) -> Iterator[str]:
    yield "for " + ", ".join(f"{name} = {size}" for name, size in cost.sizes.items())
    if cost.tiles is None:
        yield f"tiles: up to {cost.all_tiles:,} a head; {cost.why}"
    else:
        share = cost.tiles / cost.all_tiles if cost.all_tiles else 0.0
        counts = f"{cost.tiles:,} of {cost.all_tiles:,} a head ({share:.1%})"
        yield f"tiles: {counts}, {cost.full:,} of them without a test"
    yield f"work: {cost.flops / 1e9:,.4g} GFLOP in tile products"
    yield f"memory: {cost.bytes / 1e6:,.4g} MB, each tensor moved once"
    if cost.bytes:
        yield f"intensity: {cost.flops / cost.bytes:,.4g} FLOP a byte"
