"""sigmoid_attention, forward, sm_90: by attngen.

attention sigmoid_attention {
  query q : bf16[B, H, S, D]
  key k : bf16[B, H, S, D]
  value v : bf16[B, H, S, D]

  mask = causal
  score = 0.08838834764831843 * dot(q, k) - log(kv_len)
  out = sum(sigmoid(score) * v)
}
Schedule: block_q=128, block_k=64, warps=4, stages=2, loads=descriptor, loops=split, form=tile,
  precision=ieee

[attngen:generated]
"""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def sigmoid_attention_step(acc_v, q, factor, k_tiles, v_tiles, b, h, n, q_idx, PARTIAL: tl.constexpr):
    """One tile of 64 keys."""
    kv_idx = n + tl.arange(0, 64)  # [keys]
    k = k_tiles.load([b, h, n, 0]).reshape(64, 128)  # [keys, D]
    s = tl.dot(q, k.T)
    score = 0.08838834764831843 * s + factor
    if PARTIAL:
        keep = kv_idx[None, :] <= q_idx[:, None]
    v = v_tiles.load([b, h, n, 0]).reshape(64, 128)  # [keys, D]
    w = tl.sigmoid(score)
    if PARTIAL:
        w = tl.where(keep, w, 0.0)
    acc_v = tl.dot(w.to(v.dtype), v, acc_v)
    return acc_v


@triton.jit(do_not_specialize=["q_len", "kv_len", "heads", "heads_in_l2"])
def sigmoid_attention_forward(q_tiles, k_tiles, v_tiles, out_ptr, q_len, kv_len, heads, heads_in_l2):
    """128 queries of one head; heads that share the cache run together."""
    tiles = tl.cdiv(q_len, 128)
    program = tl.program_id(0)
    head_group = program // (tiles * heads_in_l2)
    in_group = program % (tiles * heads_in_l2)
    bh = head_group * heads_in_l2 + in_group % heads_in_l2
    row0 = (tiles - 1 - in_group // heads_in_l2) * 128  # longest rows first
    b = bh // heads
    h = bh % heads
    row1 = tl.minimum(row0 + 128, q_len)
    q_idx = row0 + tl.arange(0, 128)  # [queries]
    inside = q_idx < q_len
    q = q_tiles.load([b, h, row0, 0]).reshape(128, 128)  # [queries, D]
    factor = -tl.log(kv_len.to(tl.float32))

    # keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi
    lo = 0
    hi = row1
    full_lo = lo
    full_hi = tl.maximum((row0 + 1) // 64 * 64, full_lo)
    acc_v = tl.zeros([128, 128], tl.float32)
    for n in tl.range(full_lo, full_hi, 64, num_stages=2):
        acc_v = sigmoid_attention_step(acc_v, q, factor, k_tiles, v_tiles, b, h, n, q_idx, False)
    for n in tl.range(full_hi, hi, 64, num_stages=2, disable_licm=True):
        acc_v = sigmoid_attention_step(acc_v, q, factor, k_tiles, v_tiles, b, h, n, q_idx, True)

    out_head = out_ptr + b.to(tl.int64) * heads * q_len * 128 + h.to(tl.int64) * q_len * 128
    out = acc_v.to(out_ptr.dtype.element_ty)  # [queries, 128]
    out_cells = out_head + (q_idx.to(tl.int64) * 128)[:, None] + tl.arange(0, 128)[None, :]
    tl.store(out_cells, out, mask=inside[:, None])


def sigmoid_attention(q, k, v):
    """Launches the kernels; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q.shape[0]
    heads = q.shape[1]
    q_len = q.shape[2]
    kv_len = k.shape[2]
    out = q.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    tiles = triton.cdiv(q_len, 128)
    programs = batch * heads
    in_l2 = max(1, 26214400 // max(1, kv_len * 512))
    # a power of two that divides the number of programs of a tile
    heads_in_l2 = min(1 << (in_l2.bit_length() - 1), programs & -programs)
    q_tiles = TensorDescriptor(q, [*q.shape[:3], 128], [*q.stride()[:3], 1], [1, 1, 128, 128])
    k_tiles = TensorDescriptor(k, [*k.shape[:3], 128], [*k.stride()[:3], 1], [1, 1, 64, 128])
    v_tiles = TensorDescriptor(v, [*v.shape[:3], 128], [*v.stride()[:3], 1], [1, 1, 64, 128])
    sigmoid_attention_forward[(tiles * programs,)](q_tiles, k_tiles, v_tiles, out, q_len, kv_len, heads,
                                                   heads_in_l2, num_warps=4, num_stages=2)
    return (out,)
