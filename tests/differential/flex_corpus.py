"""Masks and score mods in use, written anew: each kind that attn-gym 0.0.17 has, and a few more.

A case is (name, make) where make(batch, heads, length) returns a Case; a fixed length wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import and_masks, noop_mask, or_masks


@dataclass(frozen=True)
class Case:
    """sizes: (batch, heads, queries, keys); facts: of captured tensors by name."""

    score_mod: Callable[..., Any] | None = None
    mask_mod: Callable[..., Any] | None = None
    sizes: tuple[int, int, int, int] = (1, 2, 40, 40)
    facts: tuple[tuple[str, str], ...] = ()


def causal(b, h, q_idx, kv_idx):
    return kv_idx <= q_idx


def window(width):
    def inside(b, h, q_idx, kv_idx):
        return q_idx - kv_idx <= width

    return and_masks(inside, causal)


def prefix(length):
    return or_masks(lambda b, h, q_idx, kv_idx: kv_idx < length, causal)


def dilated(width, step):
    def mod(b, h, q_idx, kv_idx):
        distance = torch.abs(q_idx - kv_idx)
        return (distance <= width) & (distance % step == 0)

    return mod


def batched(inner, size):
    def mod(b, h, q_idx, kv_idx):
        own = q_idx // size == kv_idx // size
        return own & inner(b, h, q_idx % size, kv_idx % size)

    return mod


def offsets_of(*lengths):
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def documents_of(offsets):
    ids = torch.arange(len(offsets) - 1, dtype=torch.int32)
    return torch.repeat_interleave(ids, offsets.diff())


def documents(inner, offsets):
    doc = documents_of(offsets)

    def mod(b, h, q_idx, kv_idx):
        q, k = q_idx - offsets[doc[q_idx]], kv_idx - offsets[doc[kv_idx]]
        return (doc[q_idx] == doc[kv_idx]) & inner(b, h, q, k)

    return mod


def packed_causal(offsets):
    doc = documents_of(offsets)

    def mod(b, h, q_idx, kv_idx):
        return (kv_idx >= offsets[doc[q_idx]]) & causal(b, h, q_idx, kv_idx)

    return mod


def shared_prefix(offsets, owner):
    doc = documents_of(offsets)

    def mod(b, h, q_idx, kv_idx):
        mine = doc[q_idx]
        first = owner[mine]
        before = (kv_idx >= offsets[first]) & (kv_idx < offsets[first + 1]) & (mine != first)
        return ((kv_idx >= offsets[mine]) & (kv_idx <= q_idx)) | before

    return mod


def global_window(width, is_global):
    near = lambda b, h, q_idx, kv_idx: (q_idx - kv_idx).abs() <= width  # noqa: E731
    far = lambda b, h, q_idx, kv_idx: is_global[q_idx] | is_global[kv_idx]  # noqa: E731
    return or_masks(near, far)


def neighbourhood(place, size, reach):
    """Keys within `reach` of the query on a canvas, the centre kept away from its edge."""

    def mod(b, h, q_idx, kv_idx):
        kept = None
        for q, k, n in zip(place(q_idx), place(kv_idx), size, strict=True):
            centre = q.clamp(reach, n - 1 - reach)
            near = (centre - reach <= k) & (k <= centre + reach)
            kept = near if kept is None else kept & near
        return kept

    return mod


def rows(width):
    return lambda i: (i // width, i % width)


def tiled(width, tile_w, tile_h):
    def place(i):
        tile, inside = i // (tile_w * tile_h), i % (tile_w * tile_h)
        across = width // tile_w
        x = tile % across * tile_w + inside % tile_w
        return x, tile // across * tile_h + inside // tile_w

    return place


def morton(table):
    return lambda i: (table[0, i], table[1, i])


def morton_table(bits):
    codes = torch.arange(1 << (2 * bits))
    split = [sum(((codes >> (2 * j + s)) & 1) << j for j in range(bits)) for s in (0, 1)]
    return torch.stack(split).to(torch.int32)


def sliding_tiles(canvas, tile, kernel, text):
    """Sliding tile attention in two or three dimensions with text tokens behind the picture."""
    counts = [c // t for c, t in zip(canvas, tile, strict=True)]
    widths = [k // t for k, t in zip(kernel, tile, strict=True)]
    vision, numel = math.prod(canvas), math.prod(tile)

    def place(i):
        i = i // numel
        out = []
        for n in reversed(counts):
            out.append(i % n)
            i = i // n
        return out[::-1]

    def mod(b, h, q_idx, kv_idx):
        near = (q_idx < vision) & (kv_idx < vision)
        for q, k, n, w in zip(place(q_idx), place(kv_idx), counts, widths, strict=True):
            left, right = w // 2, w // 2 + (w % 2 - 1)
            centre = q.clamp(left, n - 1 - right)
            near = near & (k >= centre - left) & (k <= centre + right)
        all_keys = kv_idx < vision + text
        return (
            near | (q_idx < vision) & (kv_idx >= vision) & all_keys | (q_idx >= vision) & all_keys
        )

    return mod


def spatial_heads(prompt, width):
    def mod(b, h, q_idx, kv_idx):
        return (kv_idx < prompt) | (q_idx < prompt) | (torch.abs(q_idx - kv_idx) < width)

    return mod


def temporal_heads(prompt, frame, width):
    def mod(b, h, q_idx, kv_idx):
        q, k = (q_idx - prompt) % frame, (kv_idx - prompt) % frame
        return (kv_idx < prompt) | (q_idx < prompt) | (torch.abs(q - k) < width)

    return mod


def block_diffusion(length, block):
    def mod(b, h, q_idx, kv_idx):
        q_noised, k_noised = q_idx < length, kv_idx < length
        q, k = q_idx % length // block, kv_idx % length // block
        own = (q == k) & (q_noised == k_noised)
        clean = (q > k) & q_noised & ~k_noised | (q >= k) & ~q_noised & ~k_noised
        return own | clean

    return mod


def flamingo(intervals, tokens):
    image = torch.arange(len(intervals)).repeat_interleave(tokens)

    def mod(b, h, q_idx, kv_idx):
        interval = intervals[image[kv_idx]]
        return (q_idx >= interval[0]) & (q_idx < interval[1])

    return mod


def tree(before, ancestors):
    nodes = len(ancestors)

    def mod(b, h, q_idx, kv_idx):
        node = (kv_idx - before).clamp(min=0, max=nodes - 1)
        inside = (kv_idx >= before) & (kv_idx < before + nodes)
        return (kv_idx < before) | inside & ancestors[q_idx, node]

    return mod


def draft_blocks(before, block):
    def mod(b, h, q_idx, kv_idx):
        k = kv_idx - before
        own = (q_idx // block == k // block) & (k % block <= q_idx % block)
        return (kv_idx < before) | (kv_idx >= before) & own

    return mod


def chosen_tiles(top, tile, filled):
    def mod(b, h, q_idx, kv_idx):
        mine = kv_idx // tile
        chosen = (top[b, h, q_idx // tile] == mine.unsqueeze(-1)).any(dim=-1)
        return chosen & (kv_idx % tile < filled[mine])

    return mod


def alibi(heads):
    def mod(score, b, h, q_idx, kv_idx):
        return score + (kv_idx - q_idx) * torch.exp2(-((h + 1) * 8.0 / heads))

    return mod


def alibi_slopes(slopes):
    return lambda score, b, h, q_idx, kv_idx: score + slopes[h] * (kv_idx - q_idx)


def softcap(cap):
    return lambda score, b, h, q_idx, kv_idx: cap * torch.tanh(score / cap)


def sandwich(table, ratio, offset):
    return lambda score, b, h, q_idx, kv_idx: score + table[q_idx - kv_idx + offset] * ratio[h]


def spatial_bias(table, distance):
    return lambda score, b, h, q_idx, kv_idx: score + table[h, distance[b, q_idx, kv_idx]]


def edge_bias(table, types, lengths):
    slices = [table[:, n] for n in range(table.shape[1])]

    def mod(score, b, h, q_idx, kv_idx):
        length, total = lengths[b, q_idx, kv_idx], 0.0
        for n, part in enumerate(slices):
            found = part[h, types[b, q_idx, kv_idx, n]]
            total = total + torch.where(length > n, found, 0.0)
        return score + total / torch.clamp(length, min=1)

    return mod


def latent_rope(q_rope, k_rope, heads, scale):
    def mod(score, b, h, q_idx, kv_idx):
        return score + scale * torch.dot(q_rope[b, h, q_idx], k_rope[b, h // heads, kv_idx])

    return mod


def activation(function, offset):
    return lambda score, b, h, q_idx, kv_idx: torch.log(function(score) + offset)


def relative(table, reach):
    def mod(score, b, h, q_idx, kv_idx):
        return score + table[(q_idx - kv_idx).clamp(-reach, reach) + reach, h]

    return mod


def corpus() -> dict[str, Case]:
    """All cases; tensors are made anew with a fixed seed."""
    make, device = torch.Generator("cpu").manual_seed(0), torch.get_default_device()

    def rand(*shape):
        return torch.rand(*shape, generator=make, device="cpu").to(device)

    def whole(high, *shape):
        return torch.randint(0, high, shape, generator=make, device="cpu").to(device)

    offsets = offsets_of(9, 4, 20, 7)
    ordered = (("doc", "sorted"),)
    ancestors = torch.eye(7, dtype=torch.bool)
    for node, parent in enumerate([0, 1, 1, 3, 3, 0], 1):
        ancestors[node] |= ancestors[parent]
    canvas = (1, 2, 36, 36)
    graph = (2, 2, 12, 12)
    intervals = torch.tensor([[0, 7], [1, 7], [7, 12]], dtype=torch.int32)
    functional = torch.nn.functional
    return {
        "noop": Case(None, noop_mask),
        "causal": Case(None, causal),
        "sliding_window": Case(None, window(7)),
        "prefix_lm": Case(None, prefix(11)),
        "dilated_sliding_window": Case(None, dilated(9, 3)),
        "batchify": Case(None, batched(causal, 16)),
        "document": Case(None, documents(causal, offsets)),
        "document_sorted": Case(None, documents(noop_mask, offsets), facts=ordered),
        "packed_causal_document": Case(None, packed_causal(offsets)),
        "shared_prefix": Case(None, shared_prefix(offsets, torch.tensor([0, 0, 2, 2]))),
        "global_sliding_window": Case(None, global_window(3, rand(40) < 0.1)),
        "natten": Case(None, neighbourhood(rows(6), (6, 6), 1), canvas),
        "natten_tiled": Case(None, neighbourhood(tiled(6, 2, 2), (6, 6), 1), canvas),
        "natten_morton": Case(None, neighbourhood(morton(morton_table(3)), (6, 6), 1), canvas),
        "sta_2d": Case(None, sliding_tiles((6, 6), (2, 2), (6, 2), 4), (1, 2, 40, 40)),
        "sta_3d": Case(None, sliding_tiles((2, 4, 4), (1, 2, 2), (1, 2, 4), 5), (1, 2, 37, 37)),
        "svg_spatial": Case(None, spatial_heads(3, 8)),
        "svg_temporal": Case(None, temporal_heads(3, 7, 2)),
        "block_diffusion": Case(None, block_diffusion(20, 4)),
        "flamingo": Case(None, flamingo(intervals, 3), (1, 2, 12, 9)),
        "jetspec_tree": Case(None, tree(9, ancestors), (1, 2, 7, 16)),
        "jetspec_training": Case(None, draft_blocks(5, 4), (1, 2, 12, 17)),
        "vsa": Case(None, chosen_tiles(whole(5, 1, 2, 5, 2), 8, torch.tensor([8, 8, 5, 8, 3]))),
        "alibi": Case(alibi(2), causal),
        "alibi_slopes": Case(alibi_slopes(rand(2)), causal),
        "tanh_softcap": Case(softcap(3)),
        "sandwich": Case(sandwich(rand(80), rand(2), 39), causal),
        "graphormer_spatial": Case(
            spatial_bias(rand(2, 6), whole(6, 2, 12, 12).to(torch.int32)), None, graph
        ),
        "graphormer_edge": Case(
            edge_bias(rand(2, 3, 4), whole(4, 2, 12, 12, 3), whole(4, 2, 12, 12)), None, graph
        ),
        "mla_rope": Case(latent_rope(rand(1, 2, 40, 16), rand(1, 1, 40, 16), 2, 0.3)),
        "activation_gelu": Case(activation(functional.gelu, 1.0)),
        "activation_relu": Case(activation(functional.relu, 1.0), causal),
        "relative_bias": Case(relative(rand(17, 2), 8), causal),
        "masked_score": Case(
            lambda score, b, h, q_idx, kv_idx: torch.where(kv_idx <= q_idx, score, -math.inf)
        ),
    }
