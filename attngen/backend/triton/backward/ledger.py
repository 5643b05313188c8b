"""What the host does around the backward kernels: arrays, sums, values per head."""

from __future__ import annotations

from dataclasses import dataclass, field

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.dtype import Dtype
from attngen.ir.backward import Gradient
from attngen.ir.expr import Binary, Const, Expr, Index, Known, Load, Unary

TORCH = {Dtype.F16: "torch.float16", Dtype.BF16: "torch.bfloat16", Dtype.F32: "torch.float32"}
POSITION = {"q_idx": "q_len", "kv_idx": "kv_len"}


@dataclass
class Ledger:
    """What the host does around the kernels.

    allocations, finishing: lines; parts: for each tensor the arrays that add up to its gradient.
    """

    allocations: list[str] = field(default_factory=list)
    finishing: list[str] = field(default_factory=list)
    parts: dict[str, list[str]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def name(self, wish: str) -> str:
        """An array name not taken yet."""
        name, count = wish, 1
        while name in self.taken:
            name, count = f"{wish}_{count}", count + 1
        self.taken.add(name)
        return name

    def part(self, tensor: str, text: str) -> None:
        """Add an array (or an expression) to the gradient of a tensor."""
        self.parts.setdefault(tensor, []).append(text)


def host_text(e: Expr, names: dict[Expr, str]) -> str:
    """A value per (batch, head) as torch text."""
    if e in names:
        return names[e]
    match e:
        case Known():
            return e.name
        case Const():
            return repr(e.value)
        case Binary(op="add", a=a, b=b):
            return f"({host_text(a, names)} + {host_text(b, names)})"
        case Binary(op="mul", a=a, b=b):
            return f"{host_text(a, names)} * {host_text(b, names)}"
        case Unary(op=op, x=x) if op in (
            "exp",
            "log",
            "tanh",
            "sigmoid",
            "sqrt",
            "rsqrt",
            "cos",
            "sin",
        ):
            return f"{host_text(x, names)}.{op}()"
        case Unary(op="recip", x=x):
            return f"(1.0 / {host_text(x, names)})"
        case Load(tensor=tensor, index=index) if all(isinstance(i, Index) for i in index):
            return (
                f"{tensor}[:, None]"
                if index and index[0] is Index("b") and len(index) == 1
                else tensor
            )
    raise not_built("this gradient per head")


def head_gradient(ledger: Ledger, g: Gradient) -> None:
    """Host: the gradient of a tensor read per head, from sums [batch, heads]."""
    of = g.of
    if not isinstance(of, Load):
        raise TypeError("place `heads` is of numbers, not of rows")
    names = [i.name for i in of.index if isinstance(i, Index)]
    if len(names) != len(of.index) or not set(names) <= {"b", "h", "h_kv"}:
        raise not_built(f"the gradient of {of.tensor} at a fixed element")
    value = f"({host_text(g.value, {})})"
    if "h_kv" in names:
        value += f".unflatten(1, ({of.tensor}.shape[{names.index('h_kv')}], -1)).sum(-1)"
    have = ["b", "h_kv" if "h_kv" in names else "h"]
    drop = [i for i, n in enumerate(have) if n not in names]
    if drop:
        value += f".sum(({', '.join(map(str, drop))},))"
    if names == have[::-1]:
        value += ".T"
    ledger.part(of.tensor, f"{value}.to({of.tensor}.dtype)" if of.index else value)


def not_built(what: str) -> SpecError:
    """Error E430 for a gradient that has no kernel."""
    message = f"{what} is not built yet in the triton backend"
    return SpecError(
        Diagnostic("E430", message, help="mark the input `const`, or call under torch.no_grad()")
    )
