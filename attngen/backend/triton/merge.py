"""Results of the merge kernel: one row per program."""

from __future__ import annotations

from attngen.backend.triton.binder import Binder
from attngen.backend.triton.outputs import Outputs, Result


class MergeOutputs(Outputs):
    """Stores a single row: numbers are scalars, rows are vectors."""

    def _store(self, r: Result, texts: list[str], binder: Binder) -> list[str]:
        base, row = self._offsets(r)
        head = f"{r.name}_head" if base else f"{r.name}_ptr"
        lines = [f"{r.name}_head = {r.name}_ptr + {base}"] if base else []
        if r.width is None:
            return [*lines, f"tl.store({head} + {row}, {self._value(texts[0], r)})"]
        for i, (text, c) in enumerate(zip(texts, self._chunks(r, texts, binder), strict=True)):
            name = binder.names.take(r.name if len(texts) == 1 else f"{r.name}_{i}")
            columns = f"tl.arange(0, {c.block})"
            at = columns if c.start == 0 else f"({c.start} + {columns})"
            mask = f", mask={columns} < {c.width}" if c.padded else ""
            lines.append(f"{name} = {self._value(text, r)}  # [{r.width}]")
            lines.append(f"tl.store({head} + {row} + {at}, {name}{mask})")
        return lines
