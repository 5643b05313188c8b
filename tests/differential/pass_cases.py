"""Formulas with several passes over the keys whose later ones read rows of the earlier ones."""

from __future__ import annotations

from attngen.runtime.kernel import Kernel
from tests.differential.harness import kernel

STREAMS = """
  query q : half[B, Hq, Sq, D]
  key   k : half[B, Hkv, Skv, D]
  value v : half[B, Hkv, Skv, D]
  input tau : f32[Hq]
  s = rsqrt(D) * dot(q, k) * tau[h]
"""
ROWS = {
    "two hops": """y = sum(softmax(s) * v)
        out = sum(softmax(rsqrt(D) * dot(q + y, k)) * v)
        return out""",
    "the row alone, and returned": """y = sum(softmax(s) * v)
        out = sum(softmax(rsqrt(D) * dot(y, k)) * v)
        lse = logsumexp(s)
        return out, y, lse""",
    "masked": """mask = kv_idx <= q_pos
        y = sum(softmax(s) * v)
        out = sum(softmax(rsqrt(D) * dot(0.5 * y - q, k)) * v)
        return out""",
    "three hops": """y = sum(softmax(s) * v)
        z = sum(softmax(rsqrt(D) * dot(q + y, k)) * v)
        out = sum(softmax(rsqrt(D) * dot(z + tau[h] * y, k)) * v)
        return out""",
    "a gate by the row": """y = sum(softmax(s) * k)
        out = sum(sigmoid(rsqrt(D) * dot(y, k)) * v) * sigmoid(rsqrt(D) * dot(y, q))
        return out""",
    "a distance to the mean": """y = sum(softmax(s) * k)
        out = sum(softmax(-0.5 * rsqrt(D) * dot(y - k, y - k)) * v)
        return out""",
    "column by column": """y = sum(softmax(s) * k)
        out = sum(softmax(rsqrt(D) * dot(y * q, k)) * v)
        return out""",
    "a product as a payload": """y = sum(softmax(s) * v)
        out = sum(softmax(s) * sigmoid(rsqrt(D) * dot(y, k)) * v)
        return out""",
    "the largest of a second score": """y = sum(softmax(s) * v)
        best = max(rsqrt(D) * dot(y, k))
        return best, y""",
}
SIZES = {"B": 2, "Hq": 4, "Hkv": 2, "Sq": 20, "Skv": 70, "D": 16}


def made(body: str, streams: str = STREAMS, **options: object) -> Kernel:
    """The kernel of a formula over the streams."""
    return kernel(f"attention made_up {{ {streams} {body} \n}}", **options)
