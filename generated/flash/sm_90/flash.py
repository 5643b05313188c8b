"""flash, forward, sm_90: by attngen.

attention flash {
  query q : bf16[B, H, Sq, D]
  key k : bf16[B, H, Skv, D]
  value v : bf16[B, H, Skv, Dv]

  mask = causal
  score = 0.08838834764831843 * dot(q, k)
  out = sum(softmax(score) * v)
  lse = logsumexp(score)
  return out, lse
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
def flash_step(acc_v, m_i, l_i, q, k_tiles, v_tiles, b, h, n, q_pos, PARTIAL: tl.constexpr):
    """One tile of 64 keys."""
    kv_idx = n + tl.arange(0, 64)  # [keys]
    k = k_tiles.load([b, h, n, 0]).reshape(64, 128)  # [keys, D]
    s = tl.dot(q, k.T)
    if PARTIAL:
        keep = kv_idx[None, :] <= q_pos[:, None]
        s = tl.where(keep, s, float("-inf"))
    m_new = tl.maximum(m_i, tl.max(s, 1) * 0.12751743082459868)
    m_safe = tl.where(m_new == float("-inf"), 0.0, m_new) if PARTIAL else m_new
    p = tl.exp2(s * 0.12751743082459868 - m_safe[:, None])
    alpha = tl.exp2(m_i - m_safe)
    m_i = m_new
    l_i = l_i * alpha + tl.sum(p, 1)
    v = v_tiles.load([b, h, n, 0]).reshape(64, 128)  # [keys, Dv]
    acc_v = tl.dot(p.to(v.dtype), v, acc_v * alpha[:, None])
    return acc_v, m_i, l_i


@triton.jit(do_not_specialize=["q_len", "kv_len", "heads", "heads_in_l2"])
def flash_forward(q_tiles, k_tiles, v_tiles, out_ptr, lse_ptr, q_len, kv_len, heads, heads_in_l2):
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
    q_pos = q_idx + (kv_len - q_len)  # key position of each query
    q = q_tiles.load([b, h, row0, 0]).reshape(128, 128)  # [queries, D]

    # keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi
    lo = 0
    hi = kv_len + row1 - q_len
    full_lo = lo
    full_hi = tl.maximum((kv_len + row0 - q_len + 1) // 64 * 64, full_lo)
    acc_v = tl.zeros([128, 128], tl.float32)
    m_i = tl.full([128], float("-inf"), tl.float32)
    l_i = tl.zeros([128], tl.float32)
    for n in tl.range(full_lo, full_hi, 64, num_stages=2):
        acc_v, m_i, l_i = flash_step(acc_v, m_i, l_i, q, k_tiles, v_tiles, b, h, n, q_pos, False)
    for n in tl.range(full_hi, hi, 64, num_stages=2, disable_licm=True):
        acc_v, m_i, l_i = flash_step(acc_v, m_i, l_i, q, k_tiles, v_tiles, b, h, n, q_pos, True)
    lse = (m_i + tl.log2(l_i)) * 0.6931471805599453
    total = tl.where(l_i == 0.0, 1.0, l_i)  # a row with no key gives 0

    out_head = out_ptr + b.to(tl.int64) * heads * q_len * 128 + h.to(tl.int64) * q_len * 128
    out = (acc_v / total[:, None]).to(out_ptr.dtype.element_ty)  # [queries, 128]
    out_cells = out_head + (q_idx.to(tl.int64) * 128)[:, None] + tl.arange(0, 128)[None, :]
    tl.store(out_cells, out, mask=inside[:, None])
    lse_head = lse_ptr + b.to(tl.int64) * heads * q_len + h.to(tl.int64) * q_len
    tl.store(lse_head + q_idx, lse, mask=inside)


def flash(q, k, v):
    """Launches the kernels; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q.shape[0]
    heads = q.shape[1]
    q_len = q.shape[2]
    kv_len = k.shape[2]
    out = q.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    lse = q.new_empty((batch, heads, q_len), dtype=torch.float32)
    tiles = triton.cdiv(q_len, 128)
    programs = batch * heads
    in_l2 = max(1, 26214400 // max(1, kv_len * 512))
    # a power of two that divides the number of programs of a tile
    heads_in_l2 = min(1 << (in_l2.bit_length() - 1), programs & -programs)
    q_tiles = TensorDescriptor(q, [*q.shape[:3], 128], [*q.stride()[:3], 1], [1, 1, 128, 128])
    k_tiles = TensorDescriptor(k, [*k.shape[:3], 128], [*k.stride()[:3], 1], [1, 1, 64, 128])
    v_tiles = TensorDescriptor(v, [*v.shape[:3], 128], [*v.stride()[:3], 1], [1, 1, 64, 128])
    flash_forward[(tiles * programs,)](q_tiles, k_tiles, v_tiles, out, lse, q_len, kv_len, heads,
                                       heads_in_l2, num_warps=4, num_stages=2)
    return out, lse
