"""Results of a kernel: allocated by the host, stored by rows in the first query's layout."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.backend.triton.binder import Binder
from attngen.backend.triton.finish import Finish
from attngen.backend.triton.host import Result as Array
from attngen.backend.triton.layout import Chunk, cut, side_tensors, size
from attngen.backend.triton.tensors import Parameters, Sizes
from attngen.backend.value import Value, value
from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention
from attngen.ir.expr import Expr, Reduced, Row, Side
from attngen.ir.online import OnlinePlan
from attngen.ir.walk import walk

_TORCH = {Dtype.F16: "torch.float16", Dtype.BF16: "torch.bfloat16", Dtype.F32: "torch.float32"}
_POINTER = {
    "torch.float16": "fp16",
    "torch.bfloat16": "bf16",
    "torch.float32": "fp32",
    "torch.int64": "i64",
}


@dataclass(frozen=True)
class Result:
    """One result: its name, row expression, width (None: a number per row) and torch dtype."""

    name: str
    expr: Expr
    width: int | None
    dtype: str


class Outputs:
    """Allocation and stores of all results."""

    def __init__(
        self,
        attention: Attention,
        plan: OnlinePlan,
        sizes: Sizes,
        block_q: int,
        parameters: Parameters,
    ) -> None:
        self.attention, self.sizes, self.block_q = attention, sizes, block_q
        self.query = side_tensors(attention, Side.QUERY)[0]
        self.results = [self._result(name, e) for name, e in plan.outputs]
        for r in self.results:
            parameters.add_array(f"{r.name}_ptr", _POINTER[r.dtype], r.name)

    def _result(self, name: str, e: Expr) -> Result:
        integer = e.kind == "int"
        wide = any(
            isinstance(x, Row) or (isinstance(x, Reduced) and x.what == "moment") for x in walk(e)
        )
        own = _TORCH[self.query.dtype] if e.feature is not None and wide else "torch.float32"
        width = None if e.feature is None else size(e.feature)
        return Result(name, e, width, "torch.int64" if integer else own)

    def allocations(self) -> list[Array]:
        """Host steps."""
        made = []
        for r in self.results:
            sizes = [self._size(role) for role, _ in self._axes()]
            sizes += [value(r.width)] if r.width else []
            made.append(Array(r.name, self.query.name, tuple(sizes), r.dtype))
        return made

    def _axes(self) -> list[tuple[str, str]]:
        """(role, size in the kernel) of the query's axes but the feature axis, in memory order."""
        names = {"batch": "batch", "head": "heads", "position": "q_len"}
        return [(a.role, names[a.role]) for a in self.query.axes if a.role in names]

    def _size(self, role: str) -> Value:
        s = self.sizes
        return {"batch": s.batch, "head": s.heads, "position": s.q_len}[role]

    def lines(self, finish: Finish, binder: Binder) -> list[str]:
        """Kernel lines that compute and store every result."""
        out: list[str] = []
        for r in self.results:
            out += self._store(r, finish.output(r.expr), binder)
        return out

    def _store(self, r: Result, texts: list[str], binder: Binder) -> list[str]:
        base, row = self._offsets(r)
        lines = [f"{r.name}_head = {r.name}_ptr + {base}"] if base else []
        head = f"{r.name}_head" if base else f"{r.name}_ptr"
        if r.width is None:
            return [*lines, f"tl.store({head} + {row}, {self._value(texts[0], r)}, mask=inside)"]
        rows = row if " " not in row else f"({row})"
        for i, (text, c) in enumerate(zip(texts, self._chunks(r, texts, binder), strict=True)):
            name = binder.names.take(r.name if len(texts) == 1 else f"{r.name}_{i}")
            columns = f"tl.arange(0, {c.block})"
            at = columns if c.start == 0 else f"({c.start} + {columns})"
            mask = (
                f"inside[:, None] & ({columns} < {c.width})[None, :]"
                if c.padded
                else "inside[:, None]"
            )
            lines.append(f"{name} = {self._value(text, r)}  # [queries, {r.width}]")
            lines.append(f"{name}_cells = {head} + {rows}[:, None] + {at}[None, :]")
            lines.append(f"tl.store({name}_cells, {name}, mask={mask})")
        return lines

    def _value(self, text: str, r: Result) -> str:
        """The text in the result's dtype; numbers per row are float32 or int64."""
        if r.dtype == "torch.float32":
            return text
        wrapped = text if text.isidentifier() else f"({text})"
        return f"{wrapped}.to({r.name}_ptr.dtype.element_ty)"

    def _chunks(self, r: Result, texts: list[str], binder: Binder) -> list[Chunk]:
        if isinstance(r.expr, Expr.__args__) and r.dtype != "torch.int64" and len(texts) > 1:
            chunks = binder.chunks(r.expr)
            first = chunks[0].start
            return [Chunk(c.start - first, c.width, c.block) for c in chunks]
        width = r.width or 1
        if any(isinstance(x, Reduced) and x.what in ("values", "indices") for x in walk(r.expr)):
            return [Chunk(0, width, 1 << (width - 1).bit_length())]
        return list(cut(0, width))

    def _offsets(self, r: Result) -> tuple[str, str]:
        """(base of the head, offset of the rows) in elements; products of sizes run in 64 bits."""
        axes = self._axes()
        width = [str(r.width)] if r.width else []
        base, row = [], "q_idx"
        for i, (role, _) in enumerate(axes):
            inner = [size for _, size in axes[i + 1 :]] + width
            if role == "position":
                packed = self.query.packed
                text = "(q_start + q_idx)" if packed else "q_idx"
                row = _times(text, inner)
            else:
                index = "b" if role == "batch" else "h"
                base.append(" * ".join([f"{index}.to(tl.int64)", *inner]) if inner else index)
        return " + ".join(base), row


def exact_numbers(plan: OnlinePlan) -> bool:
    """Whether a result is a number of a score (a top list, a mean), held to float32's precision."""
    numbers = [e for _, e in plan.outputs if e.feature is None]
    return bool(plan.tops) or any(not (isinstance(e, Reduced) and e.what == "lse") for e in numbers)


def _times(position: str, inner: list[str]) -> str:
    """A position times the sizes of the axes inside of it, in 64 bits."""
    if not inner:
        return position
    size = inner[0] if len(inner) == 1 else f"({' * '.join(inner)})"
    return f"{position}.to(tl.int64) * {size}"
