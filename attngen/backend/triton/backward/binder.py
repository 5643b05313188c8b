"""Binding of backward code: weights come back from the saved normaliser, masked where made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attngen.backend.triton.backward.slots import SLOT
from attngen.backend.triton.binder import Binder
from attngen.backend.triton.context import ANCHOR
from attngen.backend.triton.printer import ADD, LOG2E, MUL
from attngen.backend.triton.shape import COLUMN, ROW, TILE
from attngen.backend.triton.step import printed_score, row_shift
from attngen.ir import build
from attngen.ir.expr import Expr, Hot, Recomputed
from attngen.ir.online import OnlinePlan
from attngen.passes.score import split_score


class BackwardBinder(Binder):
    """A Binder that can recompute softmax weights.

    plan: classes by index; norms: the number that stands for each normaliser; has_keep: whether
    partial tiles have a condition.
    """

    plan: OnlinePlan
    norms: Mapping[Expr, Expr]
    has_keep = False
    half = ""
    slots: Callable[[Expr], int]

    def place(self, e: Expr, user_shape: str = TILE) -> None:
        """Make `e` printable; weights are recomputed where they are first needed."""
        if isinstance(e, Recomputed):
            if e not in self.printer.bound:
                self._recompute(e)
            return
        if isinstance(e, Hot):
            if e not in self.printer.bound:
                self._walk_over(e)
            return
        super().place(e, user_shape)

    def _walk_over(self, e: Hot) -> None:
        """A long list, slot by slot: each is read where a tile compares its keys with it."""
        frame, printer = self.printer.frame, self.printer
        printer.bound[SLOT] = "slot"
        key = frame.spread("kv_idx", COLUMN, TILE)
        name, at, own = (self.names.take(wish) for wish in ("hot", "slot_at", "slot_value"))
        index, number = (frame.spread(x, ROW, TILE) for x in (at, own))
        self.sections[TILE] += [
            f"{name} = ({key} + {frame.spread('q_idx', ROW, TILE)}) * 0.0",
            f"for slot in range(0, {self.slots(e)}):",
            f"    {at} = {printer.text(e.indices)}",
            f"    {own} = {printer.text(e.values)}",
            f"    {name} += tl.where({key} == {index}, {number}, 0.0)",
        ]
        printer.bound[e] = name

    def _recompute(self, e: Recomputed) -> None:
        """P = exp2(score - norm), both in log2 units; terms of the row are part of the norm."""
        weights = self.plan.classes[e.index]
        parts = split_score(e.score)
        score, factor = printed_score(parts, weights, ANCHOR, self.half)
        self.place(score)
        text = self.printer.text(score, MUL if factor != 1.0 else ADD)
        times = f" * {factor!r}" if factor != 1.0 else ""
        norm = self._norm(e, weights.high - weights.low <= 138.0, row_shift(parts, ANCHOR))
        name = self.names.take(weights.name)
        frame = self.printer.frame
        lines = self.sections[TILE]
        lines.append(f"{name} = tl.exp2({text}{times} - {frame.spread(norm, ROW, TILE)})")
        if self.has_keep:
            lines += ["if PARTIAL:", f"    {name} = tl.where(keep, {name}, 0.0)"]
        self.printer.bound[e] = name

    def _norm(self, e: Recomputed, is_bounded: bool, shift: Expr | None) -> str:
        """The normaliser of each row in log2 units, less what the score leaves out of a row."""
        norm = self.norms[e.norm]
        if shift is not None and not is_bounded:
            norm = build.sub(norm, build.mul(build.const(LOG2E), shift))
        self.place(norm, ROW)
        if norm not in self.printer.bound:
            self.bind(norm, "norm", ROW)
        return self.printer.bound[norm]
