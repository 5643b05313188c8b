"""What the host does around the backward kernels: arrays, sums, values per head."""

from __future__ import annotations

from dataclasses import dataclass, field

from attngen.backend.triton.host import Allocate, Let
from attngen.backend.value import METHODS, Value, cast, shape_of, sum_over, value, variable
from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.dtype import Dtype
from attngen.ir.backward import Gradient
from attngen.ir.expr import Binary, Const, Expr, Index, Known, Load, Unary

TORCH = {Dtype.F16: "torch.float16", Dtype.BF16: "torch.bfloat16", Dtype.F32: "torch.float32"}
POSITION = {"q_idx": "q_len", "kv_idx": "kv_len"}


@dataclass
class Ledger:
    """What the host does around the kernels.

    allocations, finishing: steps; parts: for each tensor the arrays that add up to its gradient.
    """

    allocations: list[Allocate] = field(default_factory=list)
    finishing: list[Let] = field(default_factory=list)
    parts: dict[str, list[Value]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def name(self, wish: str) -> str:
        """An array name not taken yet."""
        name, count = wish, 1
        while name in self.taken:
            name, count = f"{wish}_{count}", count + 1
        self.taken.add(name)
        return name

    def part(self, tensor: str, array: Value) -> None:
        """Add an array to the gradient of a tensor."""
        self.parts.setdefault(tensor, []).append(array)


def host_value(e: Expr) -> Value:
    """A value per (batch, head) as an array of the host."""
    match e:
        case Known():
            return variable(e.name)
        case Const():
            return value(e.value)
        case Binary(op="add", a=a, b=b):
            return host_value(a) + host_value(b)
        case Binary(op="mul", a=a, b=b):
            return host_value(a) * host_value(b)
        case Unary(op=op, x=x) if op in METHODS or op == "recip":
            return Value(op, (host_value(x),))
        case Load(tensor=tensor, index=index) if all(isinstance(i, Index) for i in index):
            by_batch = len(index) == 1 and index[0] is Index("b")
            return Value("column", (variable(tensor),)) if by_batch else variable(tensor)
    raise not_built("this gradient per head")


def head_gradient(ledger: Ledger, g: Gradient) -> None:
    """Host: the gradient of a tensor read per head, from sums [batch, heads]."""
    of = g.of
    if not isinstance(of, Load):
        raise TypeError("place `heads` is of numbers, not of rows")
    names = [i.name for i in of.index if isinstance(i, Index)]
    if len(names) != len(of.index) or not set(names) <= {"b", "h", "h_kv"}:
        raise not_built(f"the gradient of {of.tensor} at a fixed element")
    total = host_value(g.value)
    if "h_kv" in names:
        total = Value("unflatten", (total, 1, shape_of(of.tensor, names.index("h_kv"))))
        total = sum_over(total, (-1,))
    have = ["b", "h_kv" if "h_kv" in names else "h"]
    drop = tuple(i for i, n in enumerate(have) if n not in names)
    if drop:
        total = sum_over(total, drop)
    if names == have[::-1]:
        total = Value("permute", (total, (1, 0)))
    ledger.part(of.tensor, cast(total, of.tensor) if of.index else total)


def not_built(what: str) -> SpecError:
    """Error E430 for a gradient that has no kernel."""
    message = f"{what} is not built yet in the triton backend"
    return SpecError(
        Diagnostic("E430", message, help="mark the input `const`, or call under torch.no_grad()")
    )
