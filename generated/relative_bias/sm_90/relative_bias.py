"""relative_bias, forward, sm_90: by attngen.

attention relative_bias {
  param buckets = 64
  query q : bf16[B, H, S, D]
  key k : bf16[B, H, S, D]
  value v : bf16[B, H, S, D]
  input table : f32[H, 129]
  input bias : bf16[B, H, S, S]

  offset = min(max(kv_idx - q_idx, -64), 64) + 64
  score = 0.08838834764831843 * dot(q, k) + table[h, offset] + bias[b, h, q_idx, kv_idx]
  out = sum(softmax(score) * v)
}
Schedule: block_q=64, block_k=64, warps=8, stages=2, loads=descriptor, loops=split, form=tile,
  precision=ieee

[attngen:generated]
"""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def relative_bias_step(acc_v, m_i, l_i, q, row_term, k_tiles, v_tiles, kv_len, bias_stride_2, table_base,
                       bias_base, b, h, n, q_idx, inside, PARTIAL: tl.constexpr):
    """One tile of 64 keys."""
    kv_idx = n + tl.arange(0, 64)  # [keys]
    k = k_tiles.load([b, h, n, 0]).reshape(64, 128)  # [keys, D]
    offset = tl.minimum(tl.maximum(kv_idx[None, :] + row_term[:, None], -64), 64) + 64
    table_qk = tl.load(table_base + offset, mask=inside[:, None] & (kv_idx < kv_len)[None, :], other=0)
    bias_qk = tl.load(bias_base + (q_idx.to(tl.int64) * bias_stride_2)[:, None] + kv_idx[None, :],
                      mask=inside[:, None] & (kv_idx < kv_len)[None, :], other=0).to(tl.float32)
    s = tl.dot(q, k.T)
    # log2 units
    score = 1.4426950408889634 * table_qk + 1.4426950408889634 * bias_qk + 0.12751743082459868 * s
    if PARTIAL:
        keep = (kv_idx < kv_len)[None, :]
        score = tl.where(keep, score, float("-inf"))
    m_new = tl.maximum(m_i, tl.max(score, 1))
    m_safe = tl.where(m_new == float("-inf"), 0.0, m_new)
    p = tl.exp2(score - m_safe[:, None])
    alpha = tl.exp2(m_i - m_safe)
    m_i = m_new
    l_i = l_i * alpha + tl.sum(p, 1)
    v = v_tiles.load([b, h, n, 0]).reshape(64, 128)  # [keys, D]
    acc_v = tl.dot(p.to(v.dtype), v, acc_v * alpha[:, None])
    return acc_v, m_i, l_i


@triton.jit(do_not_specialize=["table_stride_0", "bias_stride_0", "bias_stride_1", "bias_stride_2", "q_len",
                               "kv_len", "heads", "heads_in_l2"])
def relative_bias_forward(q_tiles, k_tiles, v_tiles, table_ptr, bias_ptr, out_ptr, table_stride_0,
                          bias_stride_0, bias_stride_1, bias_stride_2, q_len, kv_len, heads, heads_in_l2):
    """64 queries of one head; heads that share the cache run together."""
    tiles = tl.cdiv(q_len, 64)
    program = tl.program_id(0)
    head_group = program // (tiles * heads_in_l2)
    in_group = program % (tiles * heads_in_l2)
    bh = head_group * heads_in_l2 + in_group % heads_in_l2
    row0 = (tiles - 1 - in_group // heads_in_l2) * 64  # longest rows first
    b = bh // heads
    h = bh % heads
    q_idx = row0 + tl.arange(0, 64)  # [queries]
    inside = q_idx < q_len
    table_base = table_ptr + h.to(tl.int64) * table_stride_0
    bias_base = bias_ptr + b.to(tl.int64) * bias_stride_0 + h.to(tl.int64) * bias_stride_1
    q = q_tiles.load([b, h, row0, 0]).reshape(64, 128)  # [queries, D]
    row_term = -q_idx

    # keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi
    lo = 0
    hi = kv_len
    full_lo = lo
    full_hi = tl.maximum(kv_len // 64 * 64, full_lo)
    acc_v = tl.zeros([64, 128], tl.float32)
    m_i = tl.full([64], float("-inf"), tl.float32)
    l_i = tl.zeros([64], tl.float32)
    for n in tl.range(full_lo, full_hi, 64, num_stages=2):
        acc_v, m_i, l_i = relative_bias_step(acc_v, m_i, l_i, q, row_term, k_tiles, v_tiles, kv_len,
                                             bias_stride_2, table_base, bias_base, b, h, n, q_idx, inside,
                                             False)
    for n in tl.range(full_hi, hi, 64, num_stages=2, disable_licm=True):
        acc_v, m_i, l_i = relative_bias_step(acc_v, m_i, l_i, q, row_term, k_tiles, v_tiles, kv_len,
                                             bias_stride_2, table_base, bias_base, b, h, n, q_idx, inside,
                                             True)
    total = tl.where(l_i == 0.0, 1.0, l_i)  # a row with no key gives 0

    out_head = out_ptr + b.to(tl.int64) * heads * q_len * 128 + h.to(tl.int64) * q_len * 128
    out = (acc_v / total[:, None]).to(out_ptr.dtype.element_ty)  # [queries, 128]
    out_cells = out_head + (q_idx.to(tl.int64) * 128)[:, None] + tl.arange(0, 128)[None, :]
    tl.store(out_cells, out, mask=inside[:, None])


def relative_bias(q, k, v, table, bias):
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
    relative_bias_forward[(tiles * programs,)](q_tiles, k_tiles, v_tiles, table, bias, out, table.stride(0),
                                               bias.stride(0), bias.stride(1), bias.stride(2), q_len, kv_len,
                                               heads, heads_in_l2, num_warps=8, num_stages=2)
    return (out,)
