"""Which key blocks a query block reads, when a spec says `sparsity = ...`.

- `blocks(index, count, size)`: key blocks index[..., :count] of each query block; a block listed
  twice counts once.
- `top_blocks(expr, count, size, keep)`: a row in the expression stands for the mean row of its
  block, an index for the number of the block. Candidates are the key blocks in which the mask keeps
  a pair. The blocks of `keep` come first and count; then the highest score, ties by lowest index.
- `threshold_blocks(expr, alpha, size, keep)`: the fewest candidates, highest first, whose softmax
  over the candidates reaches alpha.

`first(n)`: the first n key blocks; `local(n)`: the n that end at the block of the last `q_pos` of
the query block.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from attngen.ir.attention import Sparsity
from attngen.ir.expr import Row, Side
from attngen.reference.attend import Place, Tile
from attngen.reference.sizes import Sizes
from attngen.reference.streams import Streams

_KEEP = re.compile(r"(first|local)\s*\(\s*(\d+)\s*\)")


def listed_blocks(sparsity: Sparsity, streams: Streams, place: Place, heads: int) -> Tensor:
    """The caller's list as bool [queries, keys] of one sequence and head."""
    index, count = (_of_head(streams, name, place, heads) for name in sparsity.tensors)
    q_blocks, k_blocks = block_counts(sparsity, place)
    chosen = torch.zeros(q_blocks, k_blocks, dtype=torch.bool, device=streams.device)
    for row in range(q_blocks):
        listed = index[row, : int(count[row])]
        if ((listed < 0) | (listed >= k_blocks)).any():
            raise ValueError(f"{sparsity.tensors[0]}: a block outside 0 .. {k_blocks - 1}")
        chosen[row, listed] = True
    return spread(chosen, sparsity, place)


def chosen_blocks(
    sparsity: Sparsity,
    sources: tuple[Streams, Sizes],
    place: Place,
    rows: Callable[[str], Tensor],
    keep: Tensor,
) -> Tensor:
    """The choice of `top_blocks` or `threshold_blocks` as bool [queries, keys].

    keep: what the mask keeps, [queries, keys] of the whole sequence. No gradient.
    """
    if sparsity.score is None:
        raise ValueError(f"{sparsity.kind} needs an expression that ranks blocks")
    q_blocks, k_blocks = block_counts(sparsity, place)
    options = dict(sparsity.options)
    with torch.no_grad():
        at = Place(place.b, place.h, place.h_kv, 0, q_blocks, q_blocks, k_blocks)
        tile = _MeanTile(*sources, at, rows)
        tile.block = sparsity.size
        score = tile.value(sparsity.score).expand(q_blocks, k_blocks)
        candidates = _any_in_block(keep, sparsity, place)
        forced = _forced(options.get("keep", ""), sparsity, place, keep.device) & candidates
        ranked = score.masked_fill(~candidates, -torch.inf).masked_fill(forced, torch.inf)
        order = torch.argsort(ranked, dim=1, descending=True, stable=True)
        if sparsity.kind == "top_blocks":
            wanted = torch.arange(k_blocks, device=order.device) < int(options["count"])
            chosen = torch.zeros_like(candidates).scatter(1, order, wanted.expand_as(order))
        else:
            chosen = _until(score, candidates, order, float(options["alpha"]))
        return spread((chosen | forced) & candidates, sparsity, place)


def block_counts(sparsity: Sparsity, place: Place) -> tuple[int, int]:
    """Query blocks and key blocks of a sequence."""
    bq, bk = sparsity.size
    return -(-place.q_len // bq), -(-place.kv_len // bk)


def spread(chosen: Tensor, sparsity: Sparsity, place: Place) -> Tensor:
    """[query blocks, key blocks] to [queries, keys]."""
    bq, bk = sparsity.size
    wide = chosen.repeat_interleave(bq, 0).repeat_interleave(bk, 1)
    return wide[: place.q_len, : place.kv_len]


class _MeanTile(Tile):
    """A tile whose positions are blocks: a row is the mean row of its block."""

    block: tuple[int, int]

    def row(self, e: Row) -> Tensor:
        width = self.sizes.extent(e.width)
        key = e.side is Side.KEY
        values = self.rows(e.tensor)[..., e.start : e.start + width]
        means = torch.stack([part.mean(0) for part in torch.split(values, self.block[key])])
        return means.unsqueeze(0 if key else 1)


def _of_head(streams: Streams, name: str, place: Place, heads: int) -> Tensor:
    """An index or count tensor at this sequence and head; its heads may be grouped."""
    values, axes = streams.tensor(name), streams.declared[name].axes
    for axis in reversed(range(len(axes))):
        if axes[axis].role == "batch":
            values = values.select(axis, place.b)
        elif axes[axis].role == "head":
            values = values.select(axis, place.h * values.shape[axis] // heads)
    return values


def _any_in_block(keep: Tensor, sparsity: Sparsity, place: Place) -> Tensor:
    bq, bk = sparsity.size
    q_blocks, k_blocks = block_counts(sparsity, place)
    padded = keep.new_zeros(q_blocks * bq, k_blocks * bk)
    padded[: keep.shape[0], : keep.shape[1]] = keep
    return padded.view(q_blocks, bq, k_blocks, bk).any(3).any(1)


def _forced(text: str, sparsity: Sparsity, place: Place, device: torch.device) -> Tensor:
    """Blocks named by `keep = first(1) or local(2)`."""
    bq, bk = sparsity.size
    q_blocks, k_blocks = block_counts(sparsity, place)
    keys = torch.arange(k_blocks, device=device)[None, :]
    last_query = (torch.arange(1, q_blocks + 1, device=device)[:, None] * bq).clamp(max=place.q_len)
    last = (last_query - 1 + place.kv_len - place.q_len) // bk
    forced = torch.zeros(q_blocks, k_blocks, dtype=torch.bool, device=device)
    for kind, number in _KEEP.findall(text):
        count = int(number)
        forced |= keys < count if kind == "first" else (keys <= last) & (keys > last - count)
    return forced


def _until(score: Tensor, candidates: Tensor, order: Tensor, alpha: float) -> Tensor:
    """The fewest blocks in that order whose share of the softmax reaches alpha."""
    share = torch.nan_to_num(score.masked_fill(~candidates, -torch.inf).softmax(1))
    ordered = share.gather(1, order)
    before = ordered.cumsum(1) - ordered
    return torch.zeros_like(candidates).scatter(1, order, before < alpha)
