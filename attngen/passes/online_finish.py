"""The end of the online pass: tidy row algebra, guards, removal of what is unused, names, notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from attngen.ir import build
from attngen.ir.attention import Attention
from attngen.ir.build import ONE, factors
from attngen.ir.expr import Binary, Const, Expr, Reduced, Sum, Unary
from attngen.ir.online import Accumulator, OnlinePlan
from attngen.ir.walk import rewrite, substitute, walk
from attngen.passes.online_names import named
from attngen.passes.online_place import Places
from attngen.passes.online_tables import Tables, is_empty, is_proper
from attngen.passes.online_text import text
from attngen.passes.outputs import needs_guard


def finish(
    attention: Attention, outputs: Sequence[tuple[str, Expr]], tables: Tables, places: Places
) -> OnlinePlan:
    """The plan of lowered outputs; those that hold a sum are made 0 on a row without keys."""
    sums = [name for name, e in attention.outputs if any(isinstance(x, Sum) for x in walk(e))]
    guarded: list[str] = []
    rows: list[tuple[str, Expr]] = []
    for name, e in outputs:
        row = rewrite(e, _cancelled)
        if name in sums:
            row = rewrite(_with_keys(row, tables), _cancelled)
            if needs_guard(row):
                row = build.where(_no_keys(row, tables), Const(0.0), row)
                guarded.append(name)
        rows.append((name, row))
    plan = OnlinePlan(
        attention.mask,
        tuple(tables.classes),
        tuple(tables.accumulators),
        tuple(tables.tops),
        (),
        tuple(rows),
        guarded=tuple(guarded),
    )
    reserved = [t.name for t in attention.tensors] + [name for name, _ in attention.params]
    plan = named(_pruned(plan), places, reserved)
    return replace(plan, notes=_notes(plan))


# ---- row algebra


def _cancelled(e: Expr) -> Expr:
    """exp(x) * y / (exp(x) * z) -> y / z: an exponential is never 0, and must not overflow here."""
    if not isinstance(e, Binary) or e.op != "mul":
        return e
    above: list[Expr] = []
    below: list[Expr] = []
    for f in factors(e):
        inverse = isinstance(f, Unary) and f.op == "recip"
        below += factors(f.x) if isinstance(f, Unary) and inverse else []
        above += [] if inverse else [f]
    common = [f for f in above if f in below and isinstance(f, Unary) and f.op == "exp"]
    if not common:
        return e
    for f in common:
        if f in below:
            above.remove(f)
            below.remove(f)
    return build.mul(build.product(above), build.unary("recip", build.product(below)))


def _with_keys(e: Expr, tables: Tables) -> Expr:
    """`e` on a row that has keys: weights of finite scores are not all zero."""
    sure = {
        is_empty(Reduced("lse", i, (), None)): Const(False)
        for i, c in enumerate(tables.classes)
        if is_proper(c.score)
    }
    return substitute(e, sure)


def _no_keys(e: Expr, tables: Tables) -> Expr:
    """The test for a row without keys: by a normaliser that `e` uses, else by counting."""
    for x in walk(e):
        if isinstance(x, Reduced) and x.what == "lse" and is_proper(tables.classes[x.index].score):
            return is_empty(x)
    for i, c in enumerate(tables.classes):
        if is_proper(c.score) and c.stage == 1:
            return is_empty(Reduced("lse", i, (), None))
    count = Reduced("moment", tables.accumulator((), ONE, None), (), None)
    return build.binary("eq", count, Const(0.0))


# ---- removal of unused entries


def _pruned(plan: OnlinePlan) -> OnlinePlan:
    """Only what the outputs reach, renumbered; order is kept."""
    live = _Reached(plan)
    for _, e in plan.outputs:
        live.visit(e)
    order = {what: {old: new for new, old in enumerate(sorted(s))} for what, s in live.used.items()}

    def renumber(e: Expr) -> Expr:
        if not isinstance(e, Reduced):
            return e
        return Reduced(e.what, order[_table(e.what)][e.index], e.norms, e.width)

    memo: dict[Expr, Expr] = {}

    def new(e: Expr) -> Expr:
        return rewrite(e, renumber, memo)

    pruned = replace(
        plan,
        classes=tuple(
            replace(plan.classes[i], score=new(plan.classes[i].score)) for i in order["classes"]
        ),
        accumulators=tuple(
            _moved(plan.accumulators[i], order["classes"], new) for i in order["accumulators"]
        ),
        tops=tuple(replace(plan.tops[i], score=new(plan.tops[i].score)) for i in order["tops"]),
        outputs=tuple((name, new(e)) for name, e in plan.outputs),
    )
    return replace(pruned, moments=_moments(pruned))


def _moved(a: Accumulator, classes: dict[int, int], new: Callable[[Expr], Expr]) -> Accumulator:
    weights = tuple((classes[c], n) for c, n in a.weights)
    return replace(
        a, weights=weights, scalar=new(a.scalar), row=None if a.row is None else new(a.row)
    )


def _table(what: str) -> str:
    return {"lse": "classes", "moment": "accumulators"}.get(what, "tops")


class _Reached:
    """Entries of the tables that an expression needs, directly or through others."""

    def __init__(self, plan: OnlinePlan) -> None:
        self.plan = plan
        self.used: dict[str, set[int]] = {"classes": set(), "accumulators": set(), "tops": set()}

    def visit(self, e: Expr) -> None:
        for x in walk(e):
            if isinstance(x, Reduced):
                self.mark(_table(x.what), x.index)

    def mark(self, table: str, index: int) -> None:
        if index in self.used[table]:
            return
        self.used[table].add(index)
        if table == "accumulators":
            self.follow(self.plan.accumulators[index])
        else:
            self.visit(self.score(table, index))
        if table == "classes":  # logsumexp is read from the accumulator of the bare weights
            bare = (((index, 1),), ONE, None)
            accumulators = [(a.weights, a.scalar, a.row) for a in self.plan.accumulators]
            self.mark("accumulators", accumulators.index(bare))

    def score(self, table: str, index: int) -> Expr:
        if table == "classes":
            return self.plan.classes[index].score
        return self.plan.tops[index].score

    def follow(self, a: Accumulator) -> None:
        for c, _ in a.weights:
            self.mark("classes", c)
        self.visit(a.scalar)
        if a.row is not None:
            self.visit(a.row)


def _inside(plan: OnlinePlan) -> list[Expr]:
    """Expressions evaluated in the loops over the keys."""
    scores = [c.score for c in plan.classes] + [t.score for t in plan.tops]
    payloads = [x for a in plan.accumulators for x in (a.scalar, a.row) if x is not None]
    return scores + payloads


def _moments(plan: OnlinePlan) -> tuple[Reduced, ...]:
    roots = [*_inside(plan), *(e for _, e in plan.outputs)]
    found = [x for x in walk(*roots) if isinstance(x, Reduced) and x.what == "moment"]
    return tuple(sorted(found, key=lambda x: x.index))


# ---- notes


def _notes(plan: OnlinePlan) -> tuple[str, ...]:
    parts = [(entry.stage, entry.score) for entry in plan.classes]
    parts += [(a.stage, a.scalar) for a in plan.accumulators]
    parts += [(entry.stage, entry.score) for entry in plan.tops]
    notes = [_why(stage, part) for stage, part in parts if stage > 1]
    return tuple(dict.fromkeys(note for note in notes if note))


def _why(stage: int, part: Expr) -> str:
    rows = [x for x in walk(part) if isinstance(x, Reduced)]
    if not rows:
        return ""  # an accumulator of weights that are themselves of this pass
    return f"pass {stage}: {text(part)} uses {text(rows[-1])}, itself reduced over these keys"
