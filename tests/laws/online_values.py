"""Values of expressions on a tile, and reductions over all keys as they are written.

Every value has the shape [queries | 1, keys | 1, features | 1].
"""

import torch

from attngen.ir.expr import (
    Binary,
    Cast,
    Const,
    Dot,
    Index,
    Load,
    LogSumExp,
    Reduced,
    Row,
    Side,
    Softmax,
    Sum,
    Top,
    Unary,
    Uniform,
    Where,
    children,
)
from attngen.ir.walk import walk

INF = float("inf")
POINTWISE = {
    "add": torch.add,
    "mul": torch.mul,
    "max": torch.maximum,
    "min": torch.minimum,
    "lt": torch.lt,
    "le": torch.le,
    "eq": torch.eq,
    "ne": torch.ne,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
    "logaddexp": torch.logaddexp,
    "pow": torch.pow,
    "recip": torch.reciprocal,
    "silu": torch.nn.functional.silu,
    "softplus": torch.nn.functional.softplus,
    "floordiv": lambda a, b: torch.floor(a / b),
    "mod": torch.remainder,
}


class Values:
    """Expressions over queries [q0, q1) and keys [k0, k1) of one (b, h)."""

    def __init__(self, data, place, queries, keys, mask=None, reduced=None):
        self.data, self.place, self.mask = data, place, mask
        self.queries, self.keys = queries, keys
        self.reduced = reduced or {}
        self.memo = {}

    def __call__(self, e):
        if e not in self.memo:
            self.memo[e] = self.compute(e)
        return self.memo[e]

    def keep(self):
        shape = (self.queries[1] - self.queries[0], self.keys[1] - self.keys[0], 1)
        if self.mask is None:
            return torch.ones(shape, dtype=torch.bool)
        return self(self.mask).bool().expand(shape)

    def index(self, name):
        b, h = self.place
        _, heads, kv_heads, nq, nk = self.data.shape
        rows = torch.arange(*self.queries).reshape(-1, 1, 1)
        columns = torch.arange(*self.keys).reshape(1, -1, 1)
        found = {"b": b, "h": h, "h_kv": h * kv_heads // heads, "q_len": nq, "kv_len": nk}
        found |= {"q_idx": rows, "q_pos": rows + nk - nq, "kv_idx": columns}
        return (
            torch.as_tensor(found[name])
            .reshape(found[name].shape if name in ("q_idx", "q_pos", "kv_idx") else (1, 1, 1))
            .double()
        )

    def row(self, e):
        b, h = self.place
        x = self.data.tensors[e.tensor]
        span = self.queries if e.side is Side.QUERY else self.keys
        x = x[b % x.shape[0], h * x.shape[1] // self.data.shape[1], span[0] : span[1]]
        x = x[:, e.start : e.start + e.width]
        return x.unsqueeze(1) if e.side is Side.QUERY else x.unsqueeze(0)

    def compute(self, e):
        match e:
            case Const(value=value):
                return torch.tensor(float(value), dtype=torch.float64).reshape(1, 1, 1)
            case Index(name=name):
                return self.index(name)
            case Row():
                return self.row(e)
            case Reduced():
                return self.reduced[e][self.queries[0] : self.queries[1]]
            case Uniform():
                b, h = self.place
                whole = self.data.uniform[b, h]
                return whole[slice(*self.queries), slice(*self.keys)].unsqueeze(-1)
            case Softmax() | Sum() | LogSumExp() | Top():
                return self.reduction(e)
        args = [self(c) for c in children(e)]
        match e:
            case Load(tensor=tensor):
                found = self.data.tensors[tensor]
                return found[tuple(i.long() for i in args)] if args else found.reshape(1, 1, 1)
            case Dot():
                return (args[0] * args[1]).sum(-1, keepdim=True)
            case Where():
                return torch.where(args[0].bool(), args[1], args[2])
            case Cast(dtype=dtype):
                return args[0].floor() if dtype == "i32" else args[0]
            case Binary(op="logaddexp"):
                return torch.logaddexp(*torch.broadcast_tensors(*args))
            case Unary(op=op) | Binary(op=op):
                return POINTWISE.get(op, getattr(torch, op, None))(*args)
        raise AssertionError(e)

    def reduction(self, e):
        """As written, over all the keys of this object."""
        keep = self.keep()
        if isinstance(e, Sum):
            return torch.where(keep, self(e.x), 0.0).sum(1, keepdim=True)
        score = torch.where(keep, self(e.score), -INF)
        if isinstance(e, Top):
            return _top(score, e)
        most = score.amax(1, keepdim=True)
        sink = torch.full_like(most, -INF) if e.sink is None else self(e.sink).expand(most.shape)
        most = torch.maximum(most, sink)
        most = torch.where(most == -INF, 0.0, most)
        norm = torch.exp(score - most).sum(1, keepdim=True) + torch.exp(sink - most)
        if isinstance(e, Softmax):
            return torch.exp(score - most) / torch.where(norm == 0, 1.0, norm)
        return most + torch.log(norm)


def _top(score, e):
    values, order = torch.sort(score, dim=1, descending=True, stable=True)
    short = max(0, e.count - score.shape[1])
    values = torch.nn.functional.pad(values[:, : e.count], (0, 0, 0, short), value=-INF)
    order = torch.nn.functional.pad(order[:, : e.count], (0, 0, 0, short), value=-1)
    order = torch.where(values == -INF, -1, order)
    chosen = values if e.part == "values" else order.double()
    return chosen.transpose(1, 2)


def dense(attention, data):
    """Outputs by their formulas, [B * H, queries, features]; one with a sum is 0 without keys."""
    b, h, _, nq, nk = data.shape
    found = {}
    for place in [(i, j) for i in range(b) for j in range(h)]:
        values = Values(data, place, (0, nq), (0, nk), attention.mask)
        for name, e in attention.outputs:
            x = values(e)
            if any(isinstance(node, Sum) for node in walk(e)):
                x = torch.where(values.keep().any(1, keepdim=True), x, 0.0)
            found.setdefault(name, []).append(x.expand(nq, 1, -1).squeeze(1))
    return {name: torch.stack(x) for name, x in found.items()}
