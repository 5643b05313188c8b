"""Top lists in a backward: a list of n values is n numbers per query, read slot by slot.

The gradient of a list goes to the scores at the saved indices (`Hot`). A tile compares its keys
with each index; nothing is scattered, so nothing is added without an order. Short lists are written
out and stay in registers; the tile walks over a long one, slot by slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from attngen.backend.triton.finish import holds_list
from attngen.ir import build
from attngen.ir.backward import BackwardPlan, Definition
from attngen.ir.build import ZERO
from attngen.ir.expr import Axes, Dot, Expr, Hot, Index, Known, Reduced
from attngen.ir.walk import rewrite, substitute, walk

MOST = 32  # slots that are written out: each holds two numbers per row, beside a tile
SLOT = Known("slot", Axes.QUERY, None, "int")  # of a list that is walked over


class Slots:
    """Which leaves are lists, and expressions without them.

    leaves: every list, with the number of its slots; inlined: rows defined by lists, by leaf.
    """

    def __init__(self, plan: BackwardPlan, roots: Iterable[Expr]) -> None:
        self.definitions: Mapping[Expr, Definition] = {
            d.leaf: d for p in plan.passes for d in p.definitions
        }
        self.leaves: dict[Expr, int] = {}
        self.inlined: dict[Expr, Expr] = {}
        tops = {name for name, e in plan.forward.outputs if holds_list(e)}
        lists = [leaf for name, leaf in plan.seeds if name in tops and leaf.feature is not None]
        lists += [leaf for name, leaf in plan.results if name in tops and leaf.feature is not None]
        reads = [x for e in walk(*roots) if isinstance(e, Hot) for x in (e.indices, e.values)]
        for e in (*lists, *walk(*reads)):
            self._note(e)

    def _note(self, e: Expr) -> None:
        if e.feature is None or not isinstance(e, Known | Reduced):
            return
        if e in self.definitions:
            self.inlined[e] = self.definitions[e].value
            for x in walk(self.inlined[e]):
                self._note(x)
        elif isinstance(e.feature, int):
            self.leaves[e] = e.feature

    def expand(self, e: Expr, at: Callable[[Expr, Expr], Expr]) -> Expr:
        """The expression with numbers per slot; at(leaf, slot): how a slot of a list is read.

        What is left of a long list is a `Hot` of the numbers of one slot, `SLOT`.
        """
        if not self.leaves:
            return e

        def slot(x: Expr, number: int | Expr) -> Expr:
            own = build.const(number) if isinstance(number, int) else number
            return substitute(x, {leaf: at(leaf, own) for leaf in self.leaves})

        def rule(x: Expr) -> Expr:
            lists = [leaf for leaf in walk(x) if leaf in self.leaves]
            if not lists:
                return x
            slots = range(self.leaves[lists[0]])
            if isinstance(x, Hot) and len(slots) > MOST:
                return Hot(slot(x.indices, SLOT), slot(x.values, SLOT))
            if isinstance(x, Hot):
                return build.total(_one(slot(x.indices, i), slot(x.values, i)) for i in slots)
            if isinstance(x, Dot):
                parts = ((slot(x.a, i), slot(x.b, i)) for i in slots)
                return build.total(build.mul(a, b) for a, b in parts)
            return x

        return rewrite(self._whole(e), rule)

    def _whole(self, e: Expr) -> Expr:
        """Without leaves that are defined by lists."""
        while any(x in self.inlined for x in walk(e)):
            e = substitute(e, self.inlined)
        return e


def _one(index: Expr, value: Expr) -> Expr:
    """The value at its key, 0 at the others; index -1 is no key."""
    return build.where(build.binary("eq", Index("kv_idx"), index), value, ZERO)
