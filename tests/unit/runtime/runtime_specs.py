"""Specs as the frontend would hand them over, built by hand."""

from attngen.core.dtype import Dtype
from attngen.core.source import Source
from attngen.ir import build
from attngen.ir.attention import Attention, Axis, Tensor
from attngen.ir.expr import Dot, Index, Load, LogSumExp, Row, Side, Softmax, Sum
from attngen.runtime.specialise import Spec

ROLES = {"B": "batch", "H": "head", "Hq": "head", "Hkv": "head", "1": "head"}
POSITIONS = ("S", "Sq", "Skv", "T")


def axis(name: str) -> Axis:
    if name.isdecimal():
        return Axis(name, "head" if name == "1" else "feature", int(name))
    return Axis(name, ROLES.get(name, "position" if name in POSITIONS else "feature"))


def tensor(name: str, role: str, axes: str = "", dtype: Dtype = Dtype.HALF, **facts) -> Tensor:
    names = [a.strip() for a in axes.split(",") if a.strip()]
    return Tensor(name, role, dtype, tuple(axis(a) for a in names), **facts)


def rows(width="D", wide_value="Dv"):
    q, k = Row("q", Side.QUERY, width, 0), Row("k", Side.KEY, width, 0)
    v = Row("v", Side.KEY, wide_value, 0)
    score = Dot(q, k)
    return score, Sum(build.mul(Softmax(score, None), v))


CAUSAL = build.binary("le", Index("kv_idx"), Index("q_pos"))


def flash(mask=CAUSAL, **tensors: Tensor) -> Attention:
    """q [B, Hq, Sq, D], k [B, Hkv, Skv, D], v [B, Hkv, Skv, Dv] -> out, lse."""
    declared = {
        "q": tensor("q", "query", "B, Hq, Sq, D"),
        "k": tensor("k", "key", "B, Hkv, Skv, D"),
        "v": tensor("v", "value", "B, Hkv, Skv, Dv"),
    } | tensors
    score, out = rows()
    outputs = (("out", out), ("lse", LogSumExp(score, None)))
    return Attention("flash", tuple(declared.values()), mask, outputs)


def windowed() -> Attention:
    """Flash with `input window : i32` and `input scale : f32`, both used."""
    window = Load("window", (), "int")
    distance = build.sub(Index("q_pos"), Index("kv_idx"))
    return flash(
        build.binary("and", CAUSAL, build.binary("lt", distance, window)),
        window=tensor("window", "input", dtype=Dtype.I32),
        scale=tensor("scale", "input", dtype=Dtype.F32),
    )


def varlen() -> Attention:
    """Packed: q [T, Hq, D], k and v [T, Hkv, D], cu_q and cu_kv [B + 1]."""
    _, out = rows(wide_value="D")
    declared = (
        tensor("q", "query", "T, Hq, D", packed="cu_q"),
        tensor("k", "key", "T, Hkv, D", packed="cu_kv"),
        tensor("v", "value", "T, Hkv, D", packed="cu_kv"),
        Tensor("cu_q", "input", Dtype.I32, (Axis("B + 1", "feature"),)),
        Tensor("cu_kv", "input", Dtype.I32, (Axis("B + 1", "feature"),)),
    )
    return Attention("varlen", declared, CAUSAL, (("out", out),))


def spec(attention: Attention, text: str = "spec") -> Spec:
    return Spec(Source("<test>", text), {}, attention, {})
