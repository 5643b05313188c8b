"""The closed lists of the language: axes, built-in values, functions, settings."""

from __future__ import annotations

from dataclasses import dataclass, field

HEAD_AXES = ("H", "Hq", "Hkv", "Hv", "G")
POSITION_AXES = ("S", "Sq", "Skv", "T")
AXES = ("B", *HEAD_AXES, *POSITION_AXES)

BUILT_IN = {
    "attention": ("b", "h", "h_kv", "q_idx", "kv_idx", "q_len", "kv_len", "q_pos", "causal", "inf"),
    "recurrence": ("b", "h", "t", "seq_len", "inf"),
}
RESERVED = ("score", "mask", "gate", "sparsity", "out", "lse")  # may be bound, with a fixed meaning

POINTWISE = (
    *("exp", "exp2", "log", "log2", "tanh", "sigmoid", "silu", "relu", "softplus"),
    *("abs", "sqrt", "rsqrt", "floor", "sin", "cos"),
)
CASTS = ("half", "f16", "bf16", "f32", "f64", "fp8_e4m3", "fp8_e5m2", "i32", "i64", "i8", "bool")


@dataclass(frozen=True)
class Signature:
    """How a function is called: number of plain arguments, named arguments, where it may stand.

    home: "" anywhere, "attention" (reduces over keys), "recurrence", "sparsity" (only there),
    "ranking" (in the score of a block choice), "keep" (in its keep option).
    """

    usage: str
    least: int
    most: int
    named: tuple[str, ...] = field(default=())
    home: str = ""


FUNCTIONS: dict[str, Signature] = {
    **{name: Signature(f"{name}(x)", 1, 1) for name in (*POINTWISE, *CASTS)},
    "min": Signature("min(a, b)", 1, 8),
    "max": Signature("max(a, b)", 1, 8),
    "where": Signature("where(condition, a, b)", 3, 3),
    "softcap": Signature("softcap(x, cap)", 2, 2),
    "uniform": Signature("uniform(seed)", 1, 1, home="attention"),
    "dropout": Signature("dropout(x, rate, seed)", 3, 3, home="attention"),
    "dot": Signature("dot(a, b)", 2, 2),
    "outer": Signature("outer(a, b)", 2, 2, home="recurrence"),
    "sum": Signature("sum(x)", 1, 1, home="attention"),
    "softmax": Signature("softmax(score, sink = e)", 1, 1, ("sink",), "attention"),
    "logsumexp": Signature("logsumexp(score, sink = e)", 1, 1, ("sink",), "attention"),
    "argmin": Signature("argmin(score)", 1, 1, home="attention"),
    "argmax": Signature("argmax(score)", 1, 1, home="attention"),
    "topk": Signature("topk(score, 10)", 2, 2, home="attention"),
    "blocks": Signature("blocks(index, count, size = (128, 128))", 2, 2, ("size",), "sparsity"),
    "top_blocks": Signature(
        "top_blocks(dot(mean(q), mean(k)), count = 16, size = (128, 128))",
        1,
        1,
        ("count", "size", "keep"),
        "sparsity",
    ),
    "threshold_blocks": Signature(
        "threshold_blocks(dot(mean(q), mean(k)), alpha = 0.01, size = (128, 128))",
        1,
        1,
        ("alpha", "size", "keep"),
        "sparsity",
    ),
    "mean": Signature("mean(q)", 1, 1, home="ranking"),
    "first": Signature("first(1)", 1, 1, home="keep"),
    "local": Signature("local(2)", 1, 1, home="keep"),
}

# Values a setting may take: a tuple of choices, a range, or "power" (of two, 16 to 256).
SETTINGS: dict[str, tuple[str | int, ...] | str | range] = {
    "block_q": "power",
    "block_k": "power",
    "warps": (1, 2, 4, 8, 16),
    "stages": range(1, 9),
    "max_registers": range(24, 256),
    "loads": ("descriptor", "pointer"),
    "loops": ("split", "single", "joined"),
    "precision": ("tf32", "ieee"),
    "backend": ("triton", "cute"),
    "numerics": ("fast", "exact"),
    "gradients": ("ordered", "unordered"),
    "tile_m": (64, 128, 192),
    "tile_n": range(16, 257),
    "order": ("turns", "free"),
    "reference": ("running", "lazy", "first", "fixed"),
    "form": ("tile", "split", "flat"),
}
