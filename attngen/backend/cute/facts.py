"""What the schedule of a CuTe kernel needs to know of its program."""

from __future__ import annotations

from attngen.backend.cute.parts import parts_of
from attngen.backend.cute.shape import searched, shape_of
from attngen.core.dtype import Dtype
from attngen.ir import index as ix
from attngen.ir.maskplan import Direction
from attngen.ir.program import Program
from attngen.passes.interval import interval
from attngen.schedule.cute import Traits

LARGE = 128.0  # times a weight of 2**8 it stays below the greatest float16


def traits(program: Program) -> Traits:
    """Of a program in which nothing is missing; of several kernels: of the last one."""
    program = parts_of(program)[-1]
    shape, way = shape_of(program), program.mask.forward
    query, value = shape.query.width, shape.value.width
    if not isinstance(query, int) or not isinstance(value, int):
        raise TypeError("the program is not specialised")
    exact = len(way.row) == 1 and not way.leftovers
    return Traits(
        query=query,
        value=value,
        bounded=shape.bounded,
        narrow=shape.half is Dtype.F16,
        near=exact,
        local=exact and _moves(way),
        packed=any(t.packed for t in program.attention.tensors),
        searched=searched(way),
        pairs=sum(x.bytes for x in shape.riders if x.pairs),
        keys=sum(x.bytes for x in shape.riders if not x.pairs),
        sloped=shape.split.slope is not None,
        bare=shape.split.plain and shape.split.slope is None and program.online.mask is None,
        products=1 + len(shape.sums.queries),
        sums=len(shape.sums.rows),
        several=bool(shape.sums.payloads),
        kept=shape.sums.reads_score,
        large=any(max(map(abs, interval(e))) > LARGE for e in shape.sums.payloads),
    )


def _moves(way: Direction) -> bool:
    """Whether the first key a row keeps moves with the row: a window, a document."""
    low = way.row[0].lo
    return "q" in low.names or any(isinstance(x, ix.FirstGe) for x in ix.walk(low))
