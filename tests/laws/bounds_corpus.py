"""Masks people use, and run-time data for them."""

import numpy as np

BATCH, HEADS = 1, 2
SORTED, BITS = ("doc", "start", "end"), ("is_local", "tree", "full")


def documents(rng, n, mean):
    return np.cumsum(rng.random(n) < 1 / max(2, mean))[None, :].astype(int)


def data(rng, n, m=None):
    """Every run-time input the corpus reads, for q_len = m and kv_len = n."""
    m = m or n

    def between(lo, hi):
        return int(rng.integers(lo, max(lo + 1, hi)))

    doc, other = documents(rng, n, n // 5), rng.integers(0, 6, (BATCH, n))
    begins = np.where(np.diff(doc, prepend=-1) != 0, np.arange(n), 0)
    runs = np.repeat(rng.integers(0, 9, n), 1 + n // 8)[:n][None]
    return {
        "b": 0,
        "h": between(0, HEADS),
        "h_kv": 0,
        "window": between(1, n),
        "w": between(1, n // 3),
        "g": between(0, n // 4),
        "stride": between(1, n // 3),
        "left": between(0, n // 3),
        "right": between(0, n // 6),
        "half": n // 2,
        "tail": between(0, min(8, n)),
        "doc": doc,
        "pos": np.arange(n)[None] - np.maximum.accumulate(begins, axis=1),
        "other": other,
        "runs": runs,
        "prefix": np.array([between(0, n)]),
        "is_local": np.array([0, 1]),
        "window_of": np.array([between(1, 9), between(9, n + 9)]),
        "prefix_of": rng.integers(0, n // 4 + 1, (BATCH, doc.max() + 2)),
        "limit": rng.integers(0, n + 1, (BATCH, m)),
        "start": np.sort(rng.integers(0, n + 1, (BATCH, n)), axis=1),
        "end": np.sort(rng.integers(0, n + 1, (BATCH, n)), axis=1),
        "tree": rng.integers(0, 2, (BATCH, m, 8)),
        "full": rng.integers(0, 2, (BATCH, m, n)),
    }


_Q_BLOCK = "where(q_idx >= half, (q_idx - half) // 32, q_idx // 32)"
_K_BLOCK = "where(kv_idx >= half, (kv_idx - half) // 32, kv_idx // 32)"
BLOCK_DIFFUSION = " or ".join(  # [noised | clean], each half long; 32 to a block
    (
        f"({_Q_BLOCK} == {_K_BLOCK} and (q_idx >= half) == (kv_idx >= half))",
        f"({_Q_BLOCK} > {_K_BLOCK} and kv_idx >= half and not (q_idx >= half))",
        f"({_Q_BLOCK} >= {_K_BLOCK} and kv_idx >= half and q_idx >= half)",
    )
)

DOC = "doc[b, q_idx] == doc[b, kv_idx]"
_NATTEN = "min(max(q_idx - left, 0), kv_len - 2 * left - 1)"
MASKS = {
    "causal": "causal",
    "window": "causal and q_pos - kv_idx < window",
    "window, two sides": "q_idx - kv_idx <= left and kv_idx - q_idx <= right",
    "dilated window": "abs(q_idx - kv_idx) <= 4 * w and (q_idx - kv_idx) % 4 == 0",
    "dilated, run-time step": (
        "causal and q_idx - kv_idx < window and (q_idx - kv_idx) % stride == 0"
    ),
    "prefix-LM": "kv_idx < prefix[b] or kv_idx <= q_idx",
    "documents, causal": f"{DOC} and kv_idx <= q_idx",
    "documents, both ways": DOC,
    "documents, window": f"{DOC} and causal and q_pos - kv_idx < window",
    "documents, unsorted ids": "other[b, q_idx] == other[b, kv_idx] and kv_idx <= q_idx",
    "runs, unsorted ids": "runs[b, q_idx] == runs[b, kv_idx] and kv_idx <= q_idx",
    "other component": "other[b, q_idx] != other[b, kv_idx]",
    "packed prefix": (
        f"{DOC} and (pos[b, kv_idx] < prefix_of[b, doc[b, q_idx]] or kv_idx <= q_idx)"
    ),
    "packed prefix (start)": f"{DOC} and (kv_idx < limit[b, q_idx] or kv_idx <= q_idx)",
    "document or prefix": f"kv_idx <= q_idx and ({DOC} or kv_idx < prefix[b])",
    "natten 1D": f"kv_idx >= {_NATTEN} and kv_idx <= {_NATTEN} + 2 * left",
    "natten 2D": "abs(q_idx // 64 - kv_idx // 64) <= 3 and abs(q_idx % 64 - kv_idx % 64) <= 3",
    "natten 2D, wide": (
        "abs(q_idx // 512 - kv_idx // 512) <= 2 and abs(q_idx % 512 - kv_idx % 512) <= 40"
    ),
    "block causal": "kv_idx // 32 <= q_idx // 32",
    "block causal, run time": "kv_idx // stride <= q_idx // stride",
    "chunked": "causal and q_idx // 512 == kv_idx // 512",
    "block diffusion": BLOCK_DIFFUSION,
    "longformer": "kv_idx < g or q_idx < g or abs(q_idx - kv_idx) < w",
    "sink + window": "causal and (kv_idx < 4 or q_pos - kv_idx < window)",
    "strided": "causal and (q_idx - kv_idx < 64 or (q_idx - kv_idx) % 64 == 0)",
    "strided, wide": "causal and (q_idx - kv_idx < 64 or (q_idx - kv_idx) % 512 < 32)",
    "fixed": "causal and (q_idx // 256 == kv_idx // 256 or kv_idx % 256 >= 224)",
    "per-head local/global": "causal and (not is_local[h] or q_pos - kv_idx < window)",
    "per-head window": "causal and q_pos - kv_idx < window_of[h]",
    "tree tail": (
        "kv_idx < kv_len - tail or"
        " (kv_idx >= kv_len - tail and tree[b, q_idx, kv_idx - (kv_len - tail)])"
    ),
    "per-row limit": "kv_idx < limit[b, q_idx]",
    "per-column start": "start[b, kv_idx] <= q_idx",
    "column interval": "causal and not (q_idx >= start[b, kv_idx] and q_idx < end[b, kv_idx])",
    "full tensor": "causal and full[b, q_idx, kv_idx]",
    "not window": "not (abs(q_idx - kv_idx) < w)",
    "not document": f"causal and not ({DOC})",
    "xor": "(kv_idx <= q_idx) != (kv_idx < prefix[b])",
    "min/max mix": "max(kv_idx - q_idx, 0) // 8 <= 2 and min(q_idx, 100) >= kv_idx - w",
    "steep": "3 * kv_idx <= 2 * q_idx + w and 5 * kv_idx + 7 > q_idx",
    "run-time slope": "w * kv_idx <= g * q_idx + left",
    "five ranges": (
        "causal and (kv_idx < 4 or kv_idx // 4 == 5 or kv_idx // 4 == 9 or kv_idx // 4 == 14"
        " or q_idx - kv_idx < 8)"
    ),
    "never": "kv_idx < q_idx and kv_idx > q_idx",
}
UNEQUAL = (
    "causal",
    "window",
    "per-head local/global",
    "tree tail",
    "per-head window",
    "sink + window",
    "per-row limit",
    "full tensor",
)
