"""The rows kernel: what the loops need per query, and gradients that need no tile."""

from __future__ import annotations

from attngen.backend.templates import render
from attngen.backend.triton.backward.base import BackwardContext
from attngen.backend.triton.layout import size
from attngen.backend.triton.printer import LOG2E
from attngen.backend.triton.shape import ROW, SCALAR
from attngen.backend.triton.tensors import POINTER, group_lines
from attngen.backend.triton.text import prune
from attngen.backend.value import ONE
from attngen.ir import build
from attngen.ir.attention import Tensor
from attngen.ir.backward import Definition
from attngen.ir.expr import Expr, Row, Side


class RowsKernel(BackwardContext):
    """One tile of queries of one head, no loop."""

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        b = self.backward
        places = {g.place for g in b.gradients} | {s.place for s in b.sums}
        return bool(b.tiles.definitions or b.norms) or "rows" in places

    def kernel(self) -> tuple[str, list[str]]:
        """(body, parameter names)."""
        heads = group_lines(self.sizes, self.parameters)
        self._lengths()
        lines: list[str] = []
        for d in self.backward.tiles.definitions:
            lines += self._define(d)
        for norm, name in self.backward.norms.items():
            lines += self._norm(norm, name)
        lines += self._flush(self.stores.epilogue("rows"))
        loaded = [t for t in self.binder.query_tiles if t not in self.backward.made.values()]
        body = render(
            "triton/backward_rows.py.j2",
            block_q=self.schedule.block_q,
            single=self.programs == ONE,
            packed=self._packed(),
            head_lines=heads,
            position_lines=[]
            if self.attention.same_length
            else ["q_pos = q_idx + (kv_len - q_len)"],
            base_lines=[*self.streams.base_lines, *self.inputs.base_lines],
            tiles=[self.streams.views[t] for t in loaded],
            lines=lines,
        ).rstrip("\n")
        body = prune(body)
        return body, self.ordered(body)

    def _flush(self, lines: list[str]) -> list[str]:
        """Lines the binder collected, then these."""
        out = [*self.binder.sections[SCALAR], *self.binder.sections[ROW], *lines]
        self.binder.sections[SCALAR].clear()
        self.binder.sections[ROW].clear()
        return out

    def _define(self, d: Definition) -> list[str]:
        """Compute a definition, keep it under its name, store it."""
        name = self.backward.made[d.leaf]
        t = self.attention.tensor(name)
        self.binder.note_rows(d.value)
        self.stores.numbers(d.value)
        if d.leaf.feature is None:
            return self._number(d, t)
        texts = self.binder.chunk_texts(d.value)
        row = Row(name, Side.QUERY, size(t.axes[-1].size), 0)
        pointer = self.parameters.add_array(f"{name}_ptr", POINTER[t.dtype], name)
        rows, inside = self.stores.cells(t, name, pointer, Side.QUERY)
        lines = []
        for text, c in zip(texts, self.binder.chunks(row), strict=True):
            own = self.streams.tiles[name, c.start]
            columns = f"tl.arange(0, {c.block})"
            at = columns if c.start == 0 else f"({c.start} + {columns})"
            mask = f"{inside}[:, None]" + (
                f" & ({columns} < {c.width})[None, :]" if c.padded else ""
            )
            lines.append(f"{own} = ({text}).to({pointer}.dtype.element_ty)")
            lines.append(f"tl.store({rows}[:, None] + {at}[None, :], {own}, mask={mask})")
        return self._flush(lines)

    def _norm(self, norm: Expr, name: str) -> list[str]:
        """A normaliser in log2 units; infinite on rows without keys: no weight comes back."""
        self.binder.count(norm)
        self.binder.place(norm, ROW)
        text, scaled = self.norm_texts(norm)
        cells, mask = self.inputs.cells(
            self.attention.tensor(name), self.backward.number(name), self.printer
        )
        own = self.names.take(name)
        live = f'{text} > float("-inf")'
        infinite = 'float("inf")'
        line = f"{own} = {self.at_padding(live, scaled, infinite)}"
        return self._flush([line, f"tl.store({cells}, {own}{self.where(mask)})"])

    def norm_texts(self, norm: Expr) -> tuple[str, str]:
        """(the normaliser, what is stored of it)."""
        return self.printer.text(norm), self.printer.text(build.mul(build.const(LOG2E), norm))

    def at_padding(self, condition: str, text: str, other: str) -> str:
        """A number where the condition holds; queries that do not exist have the other value too.

        Packed sequences have no padding: the next one follows.
        """
        if not self.facts.packed:
            condition = f"inside & ({condition})" if condition else "inside"
        return f"tl.where({condition}, {text}, {other})" if condition else text

    def where(self, mask: str) -> str:
        """The end of a store of numbers: every one has a place, the padding is a whole block."""
        return f", mask={mask}" if self.facts.packed else ""

    def _number(self, d: Definition, t: Tensor) -> list[str]:
        own = self.names.take(t.name)
        load = self.backward.number(t.name)
        self.binder.place(d.value, ROW)
        text = self.printer.text(d.value)
        cells, mask = self.inputs.cells(t, load, self.printer)
        self.printer.bound[load] = own
        line = f"{own} = {self.at_padding('', text, '0.0')}"
        return self._flush([line, f"tl.store({cells}, {own}{self.where(mask)})"])
