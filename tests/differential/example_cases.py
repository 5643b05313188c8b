"""Cases of the examples: lengths around a tile, dtypes, loads, widths, head ratios, layouts."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from tests.differential.harness import DTYPES, FORWARD, SMALL, Case, axes

TILE = 16
RAGGED = (0, 1, 2, TILE - 1, TILE, TILE + 1, 2 * TILE + 1)
# different on the two sides, one side empty
PAIRS = ((1, 33), (17, 40), (40, 17), (33, 2), (5, 0), (0, 5))
WIDTHS = (16, 24, 40, 64, 72, 80, 96, 112, 128, 192, 256)
RATIOS = (1, 2, 3, 5, 8)
TWO_LENGTHS = ("flash", "gemma2", "sinks_gated", "parallax", "mla", "kmeans_assign")

GROUPED = """attention grouped {
  query q : half[%s]
  key   k : half[%s]
  value v : half[%s]

  score = dot(q, k) * rsqrt(D)
  mask  = causal and q_pos - kv_idx < 20
  out   = sum(softmax(score) * v)
  lse   = logsumexp(score)
  return out, lse
}
"""
LAYOUTS = {
    "head_major": ("B, Hq, Sq, D", "B, Hkv, Skv, D", "B, Hkv, Skv, Dv"),
    "token_major": ("B, Sq, Hq, D", "B, Skv, Hkv, D", "B, Skv, Hkv, Dv"),
    "mixed": ("B, Sq, Hq, D", "B, Hkv, Skv, D", "B, Skv, Hkv, Dv"),
}


def example_cases(most: int = 2) -> Iterator[Case]:
    """Every example in every dtype and way of loading, on `most` lengths that take turns."""
    for name in FORWARD:
        for half in DTYPES:
            for loads in ("descriptor", "pointer"):
                lengths = [(n, n) for n in RAGGED]
                lengths += PAIRS if name in TWO_LENGTHS else ()
                turn = zlib.crc32(f"{name} {half} {loads}".encode())
                for i in range(most):
                    q_len, kv_len = lengths[(turn + i * 5) % len(lengths)]
                    yield Case(name, sizes(name, q_len, kv_len), half, {**SMALL, "loads": loads})


def sizes(name: str, q_len: int, kv_len: int) -> dict[str, int]:
    """Small everything, two batches, several heads."""
    small = {"B": 2, "H": 2, "Hq": 4, "Hkv": 2, "D": 32, "Dv": 16}
    return small | axes(name, q_len, kv_len)


def length_cases() -> Iterator[Case]:
    """Every length on three examples: whatever takes turns above is whole here."""
    for name in ("flash", "gemma2", "sinks_gated"):
        for q_len, kv_len in [*((n, n) for n in RAGGED), *PAIRS]:
            yield Case(name, sizes(name, q_len, kv_len), "bf16", dict(SMALL))
    for n in RAGGED:
        yield Case("varlen", sizes("varlen", n, n) | {"B": 3}, "f16", dict(SMALL))
    yield Case("flash", sizes("flash", 5, 7) | {"B": 0}, "f16", dict(SMALL))


def width_cases() -> Iterator[Case]:
    """Every head size; queries and values differ."""
    for i, width in enumerate(WIDTHS):
        other = WIDTHS[(i + 3) % len(WIDTHS)]
        loads = ("pointer", "descriptor")[i % 2]
        small = {"B": 1, "H": 2, "Sq": 17, "Skv": 33, "D": width, "Dv": other}
        yield Case("flash", small, ("f16", "bf16")[i // 2 % 2], {**SMALL, "loads": loads})


def short(case: Case) -> str:
    """A readable test id."""
    lengths = "x".join(str(case.sizes[n]) for n in ("Sq", "Skv", "S") if n in case.sizes)
    width = f"-d{case.sizes['D']}" if case.sizes["D"] != 32 else ""
    return f"{case.name}-{case.half}-{lengths}{width}-{case.options.get('loads', 'default')}"
