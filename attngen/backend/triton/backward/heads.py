"""Gradients of what is read per head: the host finishes them from sums [batch, heads]."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from attngen.backend.triton.backward.ledger import Ledger, not_built
from attngen.backend.triton.host import Let
from attngen.backend.triton.tensors import sizes
from attngen.backend.value import METHODS, Value, shape_of, sum_over, value, variable
from attngen.ir.attention import Attention
from attngen.ir.backward import Gradient
from attngen.ir.expr import Binary, Const, Expr, Index, Known, Load, Unary, Where

ROLES = {"b": "batch", "h": "head", "h_kv": "head"}
ARITHMETIC = ("add", "mul", "floordiv", "mod")
COMPARE = ("lt", "le", "eq", "ne")


@dataclass(frozen=True)
class Heads:
    """Values per (batch, head) as arrays of the host, and where their gradients go."""

    attention: Attention

    @functools.cached_property
    def counts(self) -> dict[str, Value]:
        """How many heads, batches and positions there are, by the name of the host's variable."""
        found = sizes(self.attention)
        return {step.name: step.value for step in found.steps if isinstance(step, Let)}

    def value(self, e: Expr) -> Value:
        """An array that broadcasts against [batch, heads]. SpecError E430: what has none."""
        match e:
            case Known():
                return variable(e.name)
            case Const():
                return value(e.value)
            case Binary(op="add", a=a, b=b):
                return self.value(a) + self.value(b)
            case Binary(op="mul", a=a, b=b):
                return self.value(a) * self.value(b)
            case Binary(op=op, a=a, b=b) if op in COMPARE:
                return Value(op, (self.value(a), self.value(b)))
            case Where(condition=condition, a=a, b=b):
                return Value("where", tuple(self.value(x) for x in (condition, a, b)))
            case Unary(op=op, x=x) if op in METHODS or op == "recip":
                return Value(op, (self.value(x),))
            case Load(tensor=tensor, index=index):
                names = self.own(e)
                if names is None or "h_kv" in names or names == ["h", "b"]:
                    return Value("take", (variable(tensor), self.place(e)))
                by_batch = len(index) == 1 and index[0] is Index("b")
                return Value("column", (variable(tensor),)) if by_batch else variable(tensor)
        raise not_built("this gradient per head")

    def own(self, e: Load) -> list[str] | None:
        """The indices of a read whose axes are those of the launch; None for another read."""
        axes = self.attention.tensor(e.tensor).axes
        names = [i.name if isinstance(i, Index) else "" for i in e.index]
        fits = all(ROLES.get(n) == a.role for n, a in zip(names, axes, strict=True))
        return names if fits and len({*names}) == len(names) else None

    def place(self, e: Load) -> Value:
        """Which element of the flat tensor each (batch, head) reads."""
        place: Value | None = None
        for axis, index in enumerate(e.index):
            size = shape_of(e.tensor, axis)
            own = Value("clamp", (self.index(index, e.tensor), size - 1))
            place = own if place is None else place * size + own
        assert place is not None
        return place

    def index(self, e: Expr, tensor: str) -> Value:
        """A whole number per (batch, head), as an array on the device of a tensor."""
        match e:
            case Const():
                return Value("arange", (value(1), tensor)) + int(e.value)
            case Index(name="h"):
                return Value("arange", (self._count("heads"), tensor))
            case Index(name="h_kv"):
                return self._key_head(tensor)
            case Index(name="b"):
                return Value("column", (Value("arange", (self._count("batch"), tensor)),))
            case Index(name="q_len" | "kv_len" as name) if name in self.counts:
                return Value("arange", (value(1), tensor)) + self.counts[name]
            case Binary(op=op, a=a, b=b) if op in ARITHMETIC:
                return Value(op, (self.index(a, tensor), self.index(b, tensor)))
        raise not_built(f"the gradient of {tensor} at an element found by reading another input")

    def _count(self, name: str) -> Value:
        return self.counts.get(name, value(1))

    def _key_head(self, tensor: str) -> Value:
        heads, found = self._count("heads"), sizes(self.attention)
        every = Value("arange", (heads, tensor))
        if found.groups:
            return Value("floordiv", (every, heads // self._count("kv_heads")))
        return every if found.own_keys else Value("arange", (value(1), tensor))

    def gradient(self, ledger: Ledger, g: Gradient) -> None:
        """Add the gradient of a tensor read per head to the ledger."""
        of = g.of
        if not isinstance(of, Load):
            raise TypeError("place `heads` is of numbers, not of rows")
        total, names = self.value(g.value), self.own(of)
        if names is None:
            place = self.place(of)
            summed = Value("by_element", (total, place, of.tensor))
            ledger.part(of.tensor, summed, fits=False)
            return
        if "h_kv" in names:
            total = Value("unflatten", (total, 1, shape_of(of.tensor, names.index("h_kv"))))
            total = sum_over(total, (-1,))
        have = ["b", "h_kv" if "h_kv" in names else "h"]
        drop = tuple(i for i, n in enumerate(have) if n not in names)
        if drop:
            total = sum_over(total, drop)
        if names == have[::-1]:
            total = Value("permute", (total, (1, 0)))
        ledger.part(of.tensor, total, fits=not of.index)
