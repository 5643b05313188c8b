"""forgetting, forward, sm_90: by attngen.

attention forgetting {
  query q : bf16[B, H, S, D]
  key k : bf16[B, H, S, D]
  value v : bf16[B, H, S, D]
  input cum : f32[B, H, S]

  mask = causal
  score = 0.08838834764831843 * dot(q, k) + cum[b, h, q_idx] - cum[b, h, kv_idx]
  out = sum(softmax(score) * v)
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
def forgetting_step(acc_v, m_i, l_i, q, row_term, k_tiles, v_tiles, kv_len, cum_base, b, h, n, q_idx,
                    PARTIAL: tl.constexpr):
    """One tile of 64 keys."""
    kv_idx = n + tl.arange(0, 64)  # [keys]
    k = k_tiles.load([b, h, n, 0]).reshape(64, 128)  # [keys, D]
    cum_k = tl.load(cum_base + kv_idx, mask=kv_idx < kv_len, other=0)
    column = -1.4426950408889634 * cum_k
    s = tl.dot(q, k.T)
    score = row_term[:, None] + column[None, :] + 0.12751743082459868 * s  # log2 units
    if PARTIAL:
        keep = kv_idx[None, :] <= q_idx[:, None]
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


@triton.jit(do_not_specialize=["cum_stride_0", "cum_stride_1", "q_len", "kv_len", "heads", "heads_in_l2"])
def forgetting_forward(q_tiles, k_tiles, v_tiles, cum_ptr, out_ptr, cum_stride_0, cum_stride_1, q_len,
                       kv_len, heads, heads_in_l2):
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
    cum_base = cum_ptr + b.to(tl.int64) * cum_stride_0 + h.to(tl.int64) * cum_stride_1
    q = q_tiles.load([b, h, row0, 0]).reshape(64, 128)  # [queries, D]
    cum_q = tl.load(cum_base + q_idx, mask=inside, other=0)
    row_term = 1.4426950408889634 * cum_q

    # keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi
    lo = 0
    hi = row1
    full_lo = lo
    full_hi = tl.maximum((row0 + 1) // 64 * 64, full_lo)
    acc_v = tl.zeros([64, 128], tl.float32)
    m_i = tl.full([64], float("-inf"), tl.float32)
    l_i = tl.zeros([64], tl.float32)
    for n in tl.range(full_lo, full_hi, 64, num_stages=3):
        acc_v, m_i, l_i = forgetting_step(acc_v, m_i, l_i, q, row_term, k_tiles, v_tiles, kv_len, cum_base,
                                          b, h, n, q_idx, False)
    for n in tl.range(full_hi, hi, 64, num_stages=3, disable_licm=True):
        acc_v, m_i, l_i = forgetting_step(acc_v, m_i, l_i, q, row_term, k_tiles, v_tiles, kv_len, cum_base,
                                          b, h, n, q_idx, True)
    total = tl.where(l_i == 0.0, 1.0, l_i)  # a row with no key gives 0

    out_head = out_ptr + b.to(tl.int64) * heads * q_len * 128 + h.to(tl.int64) * q_len * 128
    out = (acc_v / total[:, None]).to(out_ptr.dtype.element_ty)  # [queries, 128]
    out_cells = out_head + (q_idx.to(tl.int64) * 128)[:, None] + tl.arange(0, 128)[None, :]
    tl.store(out_cells, out, mask=inside[:, None])


def forgetting(q, k, v, cum):
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
    forgetting_forward[(tiles * programs,)](q_tiles, k_tiles, v_tiles, cum, out, cum.stride(0),
                                            cum.stride(1), q_len, kv_len, heads, heads_in_l2, num_warps=4,
                                            num_stages=3)
    return (out,)
