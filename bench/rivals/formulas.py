"""The rows' formulas for the peers: FlexAttention callables, intervals of keys, dense float32."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rivals.rows import BUCKETS, CAP, WINDOW, Row, Values

Mod = Callable[..., torch.Tensor]


def score_mod(row: Row, values: Values) -> Mod | None:
    """What becomes of a scaled score, pair by pair; None for plain attention."""
    slope, table = values.get("slope"), values.get("table")

    def alibi(s, b, h, i, j):
        return s + slope[h] * (j - i)

    def softcap(s, b, h, i, j):
        return CAP * torch.tanh(s / CAP)

    def bias(s, b, h, i, j):
        return s + table[h, torch.clamp(j - i, -BUCKETS, BUCKETS) + BUCKETS]

    named = {"alibi": alibi, "softcap": softcap, "softcap_window": softcap, "table_bias": bias}
    return named.get(row.kind)


def mask_mod(row: Row, values: Values) -> Mod | None:
    """Which keys a query keeps; None for all."""
    doc, start, span = values.get("doc"), values.get("start"), values.get("span")

    def causal(b, h, i, j):
        return j <= i

    def window(b, h, i, j):
        return (j <= i) & (i - j < WINDOW)

    def documents(b, h, i, j):
        return (doc[b, i] == doc[b, j]) & (j <= i)

    def prefix(b, h, i, j):
        return (j < start[b]) | (j <= i)

    def head_windows(b, h, i, j):
        return (j <= i) & (i - j < span[h])

    if row.kind == "full":
        return None
    named = {"window": window, "softcap_window": window, "documents": documents}
    named |= {"prefix": prefix, "head_windows": head_windows}
    return named.get(row.kind, causal)


def mask_axes(row: Row) -> tuple[int | None, int | None]:
    """(batches, heads) that a block mask has to tell apart."""
    batches = row.batch if row.kind in ("documents", "prefix") else None
    return batches, row.heads if row.kind == "head_windows" else None


def intervals(row: Row, values: Values) -> torch.Tensor:
    """Kept keys of each query as ends [0, F0) or [F1, F2): int32 [heads or 1, 1 or 3, B * S]."""
    device = values[row.streams[0]].device
    i = torch.arange(row.length, device=device, dtype=torch.int32)
    stop = i + 1
    if row.kind == "full":
        ends = [torch.full_like(i, row.length)]
    elif row.kind == "prefix":
        ends = [torch.maximum(stop, values["start"][0])]
    elif row.kind in ("window", "softcap_window", "documents"):
        start = _starts(values["doc"][0]) if row.kind == "documents" else stop - WINDOW
        ends = [torch.zeros_like(i), start.clamp(min=0), stop]
    elif row.kind == "head_windows":
        start = (stop[None] - values["span"][:, None]).clamp(min=0)
        rows = [torch.zeros_like(start), start, stop[None].expand_as(start)]
        return torch.stack(rows, 1).repeat(1, 1, row.batch).to(torch.int32).contiguous()
    else:
        ends = [stop]
    return torch.stack(ends)[None].repeat(1, 1, row.batch).to(torch.int32).contiguous()


def _starts(ids: torch.Tensor) -> torch.Tensor:
    """First position of the document of each token."""
    return torch.searchsorted(ids.contiguous(), ids.contiguous()).to(torch.int32)


def dense(row: Row, values: Values, b: int, h: int) -> torch.Tensor:
    """Result [S, features] of one head in the dtype of its streams, all scores at once."""

    def attend(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return _weights(row, values, q, k, b, h)

    get = {name: values[name] for name in row.streams}
    if row.kind == "differential":
        p1, p2 = attend(get["q1"], get["k1"]), attend(get["q2"], get["k2"])
        return p1 @ get["v"] - values["lam"][h] * (p2 @ get["v"])
    if row.kind == "parallax":
        p = attend(get["q"], get["k"])
        pu = p * (get["r"] @ get["k"].T)
        return (1 + pu.sum(1, keepdim=True)) * (p @ get["v"]) - pu @ get["v"]
    out = attend(get["q"], get["k"]) @ get["v"]
    return out * torch.sigmoid(values["g"]) if row.kind == "sinks_gate" else out


def _weights(
    row: Row, values: Values, q: torch.Tensor, k: torch.Tensor, b: int, h: int
) -> torch.Tensor:
    i = torch.arange(q.shape[0], device=q.device)[:, None]
    j = torch.arange(k.shape[0], device=q.device)[None, :]
    batch, head = (torch.tensor(x, device=q.device) for x in (b, h))
    s = q @ k.T * q.shape[1] ** -0.5
    score, mask = score_mod(row, values), mask_mod(row, values)
    s = score(s, batch, head, i, j) if score else s
    s = s.masked_fill(~mask(batch, head, i, j), float("-inf")) if mask else s
    if row.kind != "sinks_gate":
        return s.softmax(1)
    sink = values["sink"][h].to(s.dtype).expand(s.shape[0], 1)
    return torch.cat([s, sink], 1).softmax(1)[:, :-1]
