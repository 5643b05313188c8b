"""Facts about a program that decide what a kernel may leave out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attngen.core.dtype import Dtype
from attngen.ir import index as ix
from attngen.ir.expr import Expr, Load
from attngen.ir.program import Program
from attngen.ir.walk import walk


@dataclass(frozen=True)
class Facts:
    """What holds for every input of a program."""

    program: Program

    @property
    def wide(self) -> bool:
        """Whether the streams are float32."""
        keys = [t for t in self.program.attention.tensors if t.role in ("key", "value")]
        return any(t.dtype is Dtype.F32 for t in keys)

    @property
    def packed(self) -> bool:
        """Whether the queries are packed sequences."""
        return any(t.packed for t in self.program.attention.tensors if t.role == "query")

    @property
    def half(self) -> str:
        """`f16` where weights are rounded to float16, whose range is narrow."""
        tensors = self.program.attention.tensors
        return "f16" if any(t.dtype is Dtype.F16 for t in tensors) else ""

    def everything(self) -> Iterator[Expr]:
        """All expressions of the program."""
        plan = self.program.online
        roots = [c.score for c in plan.classes] + [a.scalar for a in plan.accumulators]
        roots += [a.row for a in plan.accumulators if a.row is not None]
        roots += [t.score for t in plan.tops] + [e for _, e in plan.outputs]
        return walk(*roots, *([plan.mask] if plan.mask is not None else []))

    @property
    def never_empty(self) -> bool:
        """Each row keeps a key, whatever the scalars, and no captured value can be -inf."""
        return self.program.mask.never_empty is ix.TRUE and not self.risky

    @property
    def risky(self) -> bool:
        """Whether a score may be -inf without a mask: it reads captured rows, columns or tiles."""
        scores = list(walk(*(c.score for c in self.program.online.classes)))
        captured = any(isinstance(e, Load) and e.level.value for e in scores)
        return captured or any(getattr(e, "value", None) == float("-inf") for e in scores)

    @property
    def guard(self) -> str:
        """When a running maximum may still be -inf after a tile: "always", "partial" or ""."""
        if self.risky:
            return "always"
        way = self.program.mask.forward
        uniform = len(way.row) == 1 and "q" not in way.row[0].lo.names and not way.leftovers
        return "" if uniform and self.never_empty else "partial"

    @property
    def tail(self) -> bool:
        """Whether a partial tile must test kv_idx < kv_len: the row limits do not imply it."""
        row = self.program.mask.forward.row
        if self.program.online.mask is None or not row:
            return True
        length = ix.var("kv_len")
        # a search stops at kv_len, but the equality it stands for may hold past it
        return any(x is length or isinstance(x, ix.FirstGe) for r in row for x in ix.walk(r.hi))

    @property
    def skip(self) -> bool:
        """Whether empty tiles are found at run time: a condition on the keys has no bound."""
        return any(_varies(f) for f in self.program.mask.forward.leftovers)


def _varies(f: ix.Formula) -> bool:
    """A test over the keys that can empty a whole tile: it reads memory or a remainder along k."""
    kinds = (ix.Element, ix.Modulo, ix.Opaque, ix.FloorDiv, ix.Extreme, ix.Pick)
    return any(isinstance(x, kinds) and "k" in x.names for x in ix.walk(f))
