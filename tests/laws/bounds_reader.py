"""Mask text -> the two things a law compares: the Attention the pass reads, and the dense mask.

The text is Python with the names of the language; the dense mask is computed by numpy from the text
alone and shares nothing with the pass.
"""

import ast
import functools

import numpy as np

from attngen.core.dtype import Dtype
from attngen.ir import build
from attngen.ir.attention import Attention, Axis, Tensor
from attngen.ir.expr import Expr, Index, Load

INDEX = {"b", "h", "h_kv", "q_idx", "q_pos", "kv_idx", "q_len", "kv_len"}
BINARY = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
    ast.And: "and",
    ast.Or: "or",
    ast.LtE: "le",
    ast.Lt: "lt",
    ast.GtE: "ge",
    ast.Gt: "gt",
    ast.Eq: "eq",
    ast.NotEq: "ne",
}


def read(text: str, kinds: dict[str, str]) -> Expr:
    """The value expression of a mask; kinds: element kind of each input (default int)."""

    def go(n: ast.AST) -> Expr:
        match n:
            case ast.Expression(body=body):
                return go(body)
            case ast.Constant(value=value):
                return build.const(value)
            case ast.Name(id="causal"):
                return build.binary("le", Index("kv_idx"), Index("q_pos"))
            case ast.Name(id=name):
                return Index(name) if name in INDEX else Load(name, (), kinds.get(name, "int"))
            case ast.Subscript(value=ast.Name(id=name), slice=index):
                elements = index.elts if isinstance(index, ast.Tuple) else [index]
                return Load(name, tuple(map(go, elements)), kinds.get(name, "int"))
            case ast.UnaryOp(op=ast.Not(), operand=x):
                return build.unary("not", go(x))
            case ast.UnaryOp(op=ast.USub(), operand=x):
                return build.neg(go(x))
            case ast.BinOp(left=a, op=op, right=b):
                return build.binary(BINARY[type(op)], go(a), go(b))
            case ast.Compare(left=a, ops=[op], comparators=[b]):
                return build.binary(BINARY[type(op)], go(a), go(b))
            case ast.BoolOp(op=op, values=values):
                name = BINARY[type(op)]
                return functools.reduce(lambda a, b: build.binary(name, a, b), map(go, values))
            case ast.Call(func=ast.Name(id="where"), args=[c, a, b]):
                return build.where(go(c), go(a), go(b))
            case ast.Call(func=ast.Name(id="abs"), args=[x]):
                return build.unary("abs", go(x))
            case ast.Call(func=ast.Name(id=("min" | "max") as name), args=args):
                return functools.reduce(lambda a, b: build.binary(name, a, b), map(go, args))
        raise SyntaxError(ast.dump(n))

    return go(ast.parse(text, mode="eval"))


def attention(
    text: str, sorted_inputs=(), bits=(), same_length: bool = True, floats=()
) -> Attention:
    """A spec with that mask; row vectors lie along the keys, except `limit` and `tree`."""
    q_axis = Axis("S" if same_length else "Sq", "position")
    kv_axis = Axis("S" if same_length else "Skv", "position")
    batch, head, width = Axis("B", "batch"), Axis("H", "head"), Axis("D", "feature")
    half, i32 = Dtype.F16, Dtype.I32
    tensors = [
        Tensor("q", "query", half, (batch, head, q_axis, width)),
        Tensor("k", "key", half, (batch, head, kv_axis, width)),
        *(Tensor(name, "input", i32, (batch, kv_axis), sorted=True) for name in sorted_inputs),
    ]
    kinds = dict.fromkeys(bits, "bool") | dict.fromkeys(floats, "float")
    return Attention("test", tuple(tensors), read(text, kinds), (), same_length=same_length)


class Loose:
    """Vectorised reads; an index outside (under a false condition) is clamped."""

    def __init__(self, data):
        self.data = data

    def __getitem__(self, index):
        index = index if isinstance(index, tuple) else (index,)
        pairs = zip(index, self.data.shape, strict=True)
        return self.data[tuple(np.clip(i, 0, n - 1) for i, n in pairs)]


class Vector(ast.NodeTransformer):
    """`and`, `or`, `not` become calls, so that they work on arrays."""

    def visit_BoolOp(self, n):
        self.generic_visit(n)
        return _call("_and" if isinstance(n.op, ast.And) else "_or", n.values)

    def visit_UnaryOp(self, n):
        self.generic_visit(n)
        return _call("_not", [n.operand]) if isinstance(n.op, ast.Not) else n


def _call(name, args):
    return ast.Call(ast.Name(name, ast.Load()), args, [])


def _fold(function):
    return lambda *args: functools.reduce(function, args)


def dense(text: str, env, m: int, n: int) -> np.ndarray:
    """Kept elements [m, n], from the source text alone."""
    q, k = np.arange(m)[:, None], np.arange(n)[None, :]
    scope = {x: Loose(v) if isinstance(v, np.ndarray) else v for x, v in env.items()} | {
        "q_idx": q,
        "kv_idx": k,
        "q_pos": q + n - m,
        "q_len": m,
        "kv_len": n,
        "causal": k <= q + n - m,
        "abs": np.abs,
        "where": np.where,
        "min": _fold(np.minimum),
        "max": _fold(np.maximum),
        "_and": _fold(np.logical_and),
        "_or": _fold(np.logical_or),
        "_not": np.logical_not,
    }
    tree = ast.fix_missing_locations(Vector().visit(ast.parse(text, mode="eval")))
    value = eval(compile(tree, text, "eval"), {}, scope)
    return np.broadcast_to(np.asarray(value) != 0, (m, n))
