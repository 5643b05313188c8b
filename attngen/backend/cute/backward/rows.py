"""The rows kernel as the CuTe kernel needs its numbers: normalisers less the terms of a row."""

from __future__ import annotations

from attngen.backend.triton.backward.rows import RowsKernel
from attngen.backend.triton.context import ANCHOR
from attngen.backend.triton.printer import LOG2E
from attngen.backend.triton.shape import ROW
from attngen.ir import build
from attngen.ir.expr import Binary, Expr, Index
from attngen.ir.walk import substitute


class RowsLessTerms(RowsKernel):
    """Normalisers without the row's terms.

    row: terms of the score that depend on the query alone; they leave the tiles and are a part of
    the normaliser. tile_m: queries of a step, from the first of which linear terms are measured.
    """

    row: Expr | None = None
    tile_m = 64

    def norm_texts(self, norm: Expr) -> tuple[str, str]:
        """The normaliser less the row's terms."""
        live, _ = super().norm_texts(norm)
        if self.row is not None:
            position = Binary("floordiv", Index("q_idx"), build.const(self.tile_m))
            first = build.mul(build.const(self.tile_m), position)
            norm = build.sub(norm, substitute(self.row, {ANCHOR: first}))
        scaled = build.mul(build.const(LOG2E), norm)
        self.binder.count(scaled)
        self.binder.place(scaled, ROW)
        return live, self.printer.text(scaled)
