"""mla, forward, sm_90: by attngen.

attention mla {
  query q : bf16[B, Hq, Sq, 576]
  key k : bf16[B, 1, Skv, 576]
  value v = k[:512]

  mask = causal
  score = 0.07216878364870323 * dot(q, k)
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
def mla_step(acc_k, m_i, l_i, q_0, q_1, k_0_tiles, k_1_tiles, b, n, q_pos, PARTIAL: tl.constexpr):
    """One tile of 64 keys."""
    kv_idx = n + tl.arange(0, 64)  # [keys]
    k_0 = k_0_tiles.load([b, 0, n, 0]).reshape(64, 512)  # [keys, 576]
    k_1 = k_1_tiles.load([b, 0, n, 512]).reshape(64, 64)  # [keys, 576]
    s = tl.dot(q_0, k_0.T)
    s = tl.dot(q_1, k_1.T, s)
    if PARTIAL:
        keep = kv_idx[None, :] <= q_pos[:, None]
        s = tl.where(keep, s, float("-inf"))
    m_new = tl.maximum(m_i, tl.max(s, 1) * 0.10411754627697266)
    m_safe = tl.where(m_new == float("-inf"), 0.0, m_new) if PARTIAL else m_new
    p = tl.exp2(s * 0.10411754627697266 - m_safe[:, None])
    alpha = tl.exp2(m_i - m_safe)
    m_i = m_new
    l_i = l_i * alpha + tl.sum(p, 1)
    acc_k = tl.dot(p.to(k_0.dtype), k_0, acc_k * alpha[:, None])
    return acc_k, m_i, l_i


@triton.jit(do_not_specialize=["q_len", "kv_len", "heads", "heads_in_l2"])
def mla_forward(q_0_tiles, q_1_tiles, k_0_tiles, k_1_tiles, out_ptr, q_len, kv_len, heads, heads_in_l2):
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
    q_pos = q_idx + (kv_len - q_len)  # key position of each query
    q_0 = q_0_tiles.load([b, h, row0, 0]).reshape(64, 512)  # [queries, 576]
    q_1 = q_1_tiles.load([b, h, row0, 512]).reshape(64, 64)  # [queries, 576]

    # keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi
    lo = 0
    hi = kv_len + row1 - q_len
    full_lo = lo
    full_hi = tl.maximum((kv_len + row0 - q_len + 1) // 64 * 64, full_lo)
    acc_k = tl.zeros([64, 512], tl.float32)
    m_i = tl.full([64], float("-inf"), tl.float32)
    l_i = tl.zeros([64], tl.float32)
    for n in tl.range(full_lo, full_hi, 64, num_stages=2):
        acc_k, m_i, l_i = mla_step(acc_k, m_i, l_i, q_0, q_1, k_0_tiles, k_1_tiles, b, n, q_pos, False)
    for n in tl.range(full_hi, hi, 64, num_stages=2, disable_licm=True):
        acc_k, m_i, l_i = mla_step(acc_k, m_i, l_i, q_0, q_1, k_0_tiles, k_1_tiles, b, n, q_pos, True)
    total = tl.where(l_i == 0.0, 1.0, l_i)  # a row with no key gives 0

    out_head = out_ptr + b.to(tl.int64) * heads * q_len * 512 + h.to(tl.int64) * q_len * 512
    out = (acc_k / total[:, None]).to(out_ptr.dtype.element_ty)  # [queries, 512]
    out_cells = out_head + (q_idx.to(tl.int64) * 512)[:, None] + tl.arange(0, 512)[None, :]
    tl.store(out_cells, out, mask=inside[:, None])


def mla(q, k):
    """Launches the kernels; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q.shape[0]
    heads = q.shape[1]
    q_len = q.shape[2]
    kv_len = k.shape[2]
    out = q.new_empty((batch, heads, q_len, 512), dtype=torch.bfloat16)
    tiles = triton.cdiv(q_len, 64)
    programs = batch * heads
    in_l2 = max(1, 26214400 // max(1, kv_len * 1152))
    # a power of two that divides the number of programs of a tile
    heads_in_l2 = min(1 << (in_l2.bit_length() - 1), programs & -programs)
    q_0_tiles = TensorDescriptor(q, [*q.shape[:3], 576], [*q.stride()[:3], 1], [1, 1, 64, 512])
    q_1_tiles = TensorDescriptor(q, [*q.shape[:3], 576], [*q.stride()[:3], 1], [1, 1, 64, 64])
    k_0_tiles = TensorDescriptor(k, [*k.shape[:3], 576], [*k.stride()[:3], 1], [1, 1, 64, 512])
    k_1_tiles = TensorDescriptor(k, [*k.shape[:3], 576], [*k.stride()[:3], 1], [1, 1, 64, 64])
    mla_forward[(tiles * programs,)](q_0_tiles, q_1_tiles, k_0_tiles, k_1_tiles, out, q_len, kv_len, heads,
                                     heads_in_l2, num_warps=8, num_stages=2)
    return (out,)
