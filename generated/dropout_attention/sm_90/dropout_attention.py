"""dropout_attention, forward, sm_90: by attngen.

attention dropout_attention {
  param rate = 0.1
  query q : bf16[B, H, S, D]
  key k : bf16[B, H, S, D]
  value v : bf16[B, H, S, D]
  input seed : i64

  mask = causal
  score = 0.08838834764831843 * dot(q, k)
  out = sum(where(uniform(seed) < 0.1, 0, 1.1111111111111112 * softmax(score)) * v)
}
Schedule: block_q=64, block_k=64, warps=4, stages=3, loads=descriptor, loops=split, form=tile,
  precision=ieee

[attngen:generated]
"""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def uniform(seed, b, h, q_idx, kv_idx):
    """Philox-4x32-10 of the position: numbers in [0, 1), the same in every schedule and direction."""
    row = q_idx + tl.zeros_like(kv_idx)
    column = kv_idx + tl.zeros_like(q_idx)
    zero = tl.zeros_like(row)
    word, _, _, _ = tl.philox(seed, column, row, zero + h, zero + b)
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08


@triton.jit
def dropout_attention_step(acc_v, m_i, l_i, q, k_tiles, v_tiles, seed, b, h, n, q_idx,
                           PARTIAL: tl.constexpr):
    """One tile of 64 keys."""
    kv_idx = n + tl.arange(0, 64)  # [keys]
    k = k_tiles.load([b, h, n, 0]).reshape(64, 128)  # [keys, D]
    s = tl.dot(q, k.T)
    if PARTIAL:
        keep = kv_idx[None, :] <= q_idx[:, None]
        s = tl.where(keep, s, float("-inf"))
    m_new = tl.maximum(m_i, tl.max(s, 1) * 0.12751743082459868)
    p = tl.exp2(s * 0.12751743082459868 - m_new[:, None])
    alpha = tl.exp2(m_i - m_new)
    m_i = m_new
    l_i = l_i * alpha + tl.sum(p, 1)
    v = v_tiles.load([b, h, n, 0]).reshape(64, 128)  # [keys, D]
    w = p * tl.where(uniform(seed, b, h, q_idx[:, None], kv_idx[None, :]) < 0.1, 0, 1.1111111111111112)
    if PARTIAL:
        w = tl.where(keep, w, 0.0)
    acc_v = tl.dot(w.to(v.dtype), v, acc_v * alpha[:, None])
    return acc_v, m_i, l_i


@triton.jit(do_not_specialize=["q_len", "heads", "heads_in_l2", "seed"])
def dropout_attention_forward(q_tiles, k_tiles, v_tiles, out_ptr, q_len, heads, heads_in_l2, seed):
    """64 queries of one head; heads that share the cache run together."""
    tiles = tl.cdiv(q_len, 64)
    program = tl.program_id(0)
    head_group = program // (tiles * heads_in_l2)
    in_group = program % (tiles * heads_in_l2)
    bh = head_group * heads_in_l2 + in_group % heads_in_l2
    row0 = (tiles - 1 - in_group // heads_in_l2) * 64  # longest rows first
    b = bh // heads
    h = bh % heads
    row1 = tl.minimum(row0 + 64, q_len)
    q_idx = row0 + tl.arange(0, 64)  # [queries]
    inside = q_idx < q_len
    q = q_tiles.load([b, h, row0, 0]).reshape(64, 128)  # [queries, D]

    # keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi
    lo = 0
    hi = row1
    full_lo = lo
    full_hi = tl.maximum((row0 + 1) // 64 * 64, full_lo)
    acc_v = tl.zeros([64, 128], tl.float32)
    m_i = tl.full([64], float("-inf"), tl.float32)
    l_i = tl.zeros([64], tl.float32)
    for n in tl.range(full_lo, full_hi, 64, num_stages=3):
        acc_v, m_i, l_i = dropout_attention_step(acc_v, m_i, l_i, q, k_tiles, v_tiles, seed, b, h, n, q_idx,
                                                 False)
    for n in tl.range(full_hi, hi, 64, num_stages=3, disable_licm=True):
        acc_v, m_i, l_i = dropout_attention_step(acc_v, m_i, l_i, q, k_tiles, v_tiles, seed, b, h, n, q_idx,
                                                 True)

    out_head = out_ptr + b.to(tl.int64) * heads * q_len * 128 + h.to(tl.int64) * q_len * 128
    out = (acc_v / l_i[:, None]).to(out_ptr.dtype.element_ty)  # [queries, 128]
    out_cells = out_head + (q_idx.to(tl.int64) * 128)[:, None] + tl.arange(0, 128)[None, :]
    tl.store(out_cells, out, mask=inside[:, None])


def dropout_attention(q, k, v, seed):
    """Launches the kernels; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q.shape[0]
    heads = q.shape[1]
    q_len = q.shape[2]
    kv_len = k.shape[2]
    out = q.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    tiles = triton.cdiv(q_len, 64)
    programs = batch * heads
    in_l2 = max(1, 26214400 // max(1, kv_len * 512))
    # a power of two that divides the number of programs of a tile
    heads_in_l2 = min(1 << (in_l2.bit_length() - 1), programs & -programs)
    q_tiles = TensorDescriptor(q, [*q.shape[:3], 128], [*q.stride()[:3], 1], [1, 1, 64, 128])
    k_tiles = TensorDescriptor(k, [*k.shape[:3], 128], [*k.stride()[:3], 1], [1, 1, 64, 128])
    v_tiles = TensorDescriptor(v, [*v.shape[:3], 128], [*v.stride()[:3], 1], [1, 1, 64, 128])
    dropout_attention_forward[(tiles * programs,)](q_tiles, k_tiles, v_tiles, out, q_len, heads, heads_in_l2,
                                                   seed, num_warps=4, num_stages=3)
    return (out,)
