"""differential, forward, sm_90: by attngen.

attention differential {
  query q1 : bf16[B, Hq, S, D]
  query q2 : bf16[B, Hq, S, D]
  key k1 : bf16[B, Hkv, S, D]
  key k2 : bf16[B, Hkv, S, D]
  value v : bf16[B, Hkv, S, Dv]
  input lam : f32[Hq]

  mask = causal
  s1 = 0.08838834764831843 * dot(q1, k1)
  s2 = 0.08838834764831843 * dot(q2, k2)
  out = sum(softmax(s1) * v) - lam[h] * sum(softmax(s2) * v)
}
Schedule: block_q=128, block_k=64, warps=8, stages=2, loads=descriptor, loops=split, form=tile,
  precision=ieee

[attngen:generated]
"""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def differential_step(acc_p1_v, acc_p2_v, m_p1, l_p1, m_p2, l_p2, q1, q2, k1_tiles, k2_tiles, v_tiles, b,
                      h_kv, n, q_idx, PARTIAL: tl.constexpr):
    """One tile of 64 keys."""
    kv_idx = n + tl.arange(0, 64)  # [keys]
    k1 = k1_tiles.load([b, h_kv, n, 0]).reshape(64, 128)  # [keys, D]
    k2 = k2_tiles.load([b, h_kv, n, 0]).reshape(64, 128)  # [keys, D]
    s = tl.dot(q1, k1.T)
    s_1 = tl.dot(q2, k2.T)
    if PARTIAL:
        keep = kv_idx[None, :] <= q_idx[:, None]
        s = tl.where(keep, s, float("-inf"))
        s_1 = tl.where(keep, s_1, float("-inf"))
    m_new_p1 = tl.maximum(m_p1, tl.max(s, 1) * 0.12751743082459868)
    p1 = tl.exp2(s * 0.12751743082459868 - m_new_p1[:, None])
    alpha_p1 = tl.exp2(m_p1 - m_new_p1)
    m_p1 = m_new_p1
    l_p1 = l_p1 * alpha_p1 + tl.sum(p1, 1)
    m_new_p2 = tl.maximum(m_p2, tl.max(s_1, 1) * 0.12751743082459868)
    p2 = tl.exp2(s_1 * 0.12751743082459868 - m_new_p2[:, None])
    alpha_p2 = tl.exp2(m_p2 - m_new_p2)
    m_p2 = m_new_p2
    l_p2 = l_p2 * alpha_p2 + tl.sum(p2, 1)
    v = v_tiles.load([b, h_kv, n, 0]).reshape(64, 128)  # [keys, Dv]
    acc_p1_v = tl.dot(p1.to(v.dtype), v, acc_p1_v * alpha_p1[:, None])
    acc_p2_v = tl.dot(p2.to(v.dtype), v, acc_p2_v * alpha_p2[:, None])
    return acc_p1_v, acc_p2_v, m_p1, l_p1, m_p2, l_p2


@triton.jit(do_not_specialize=["group", "q_len", "heads", "heads_in_l2"])
def differential_forward(q1_tiles, k1_tiles, q2_tiles, k2_tiles, v_tiles, lam_ptr, out_ptr, group, q_len,
                         heads, heads_in_l2):
    """128 queries of one head; heads that share the cache run together."""
    tiles = tl.cdiv(q_len, 128)
    program = tl.program_id(0)
    head_group = program // (tiles * heads_in_l2)
    in_group = program % (tiles * heads_in_l2)
    bh = head_group * heads_in_l2 + in_group % heads_in_l2
    row0 = (tiles - 1 - in_group // heads_in_l2) * 128  # longest rows first
    b = bh // heads
    h = bh % heads
    h_kv = h // group
    row1 = tl.minimum(row0 + 128, q_len)
    q_idx = row0 + tl.arange(0, 128)  # [queries]
    inside = q_idx < q_len
    lam_base = lam_ptr + h
    q1 = q1_tiles.load([b, h, row0, 0]).reshape(128, 128)  # [queries, D]
    q2 = q2_tiles.load([b, h, row0, 0]).reshape(128, 128)  # [queries, D]

    # keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi
    lo = 0
    hi = row1
    full_lo = lo
    full_hi = tl.maximum((row0 + 1) // 64 * 64, full_lo)
    acc_p1_v = tl.zeros([128, 128], tl.float32)
    acc_p2_v = tl.zeros([128, 128], tl.float32)
    m_p1 = tl.full([128], float("-inf"), tl.float32)
    l_p1 = tl.zeros([128], tl.float32)
    m_p2 = tl.full([128], float("-inf"), tl.float32)
    l_p2 = tl.zeros([128], tl.float32)
    for n in tl.range(full_lo, full_hi, 64, num_stages=2):
        acc_p1_v, acc_p2_v, m_p1, l_p1, m_p2, l_p2 = differential_step(acc_p1_v, acc_p2_v, m_p1, l_p1, m_p2,
                                                                       l_p2, q1, q2, k1_tiles, k2_tiles,
                                                                       v_tiles, b, h_kv, n, q_idx, False)
    for n in tl.range(full_hi, hi, 64, num_stages=2, disable_licm=True):
        acc_p1_v, acc_p2_v, m_p1, l_p1, m_p2, l_p2 = differential_step(acc_p1_v, acc_p2_v, m_p1, l_p1, m_p2,
                                                                       l_p2, q1, q2, k1_tiles, k2_tiles,
                                                                       v_tiles, b, h_kv, n, q_idx, True)
    p1_v_bar = acc_p1_v / l_p1[:, None]
    p2_v_bar = acc_p2_v / l_p2[:, None]

    lam = tl.load(lam_base)
    out_head = out_ptr + b.to(tl.int64) * heads * q_len * 128 + h.to(tl.int64) * q_len * 128
    out = (p1_v_bar - lam * p2_v_bar).to(out_ptr.dtype.element_ty)  # [queries, 128]
    out_cells = out_head + (q_idx.to(tl.int64) * 128)[:, None] + tl.arange(0, 128)[None, :]
    tl.store(out_cells, out, mask=inside[:, None])


def differential(q1, q2, k1, k2, v, lam):
    """Launches the kernels; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q1.shape[0]
    heads = q1.shape[1]
    q_len = q1.shape[2]
    kv_len = k1.shape[2]
    kv_heads = k1.shape[1]
    out = q1.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    tiles = triton.cdiv(q_len, 128)
    programs = batch * heads
    in_l2 = max(1, 26214400 // max(1, kv_len * 768))
    # a power of two that divides the number of programs of a tile
    heads_in_l2 = min(1 << (in_l2.bit_length() - 1), programs & -programs)
    q1_tiles = TensorDescriptor(q1, [*q1.shape[:3], 128], [*q1.stride()[:3], 1], [1, 1, 128, 128])
    k1_tiles = TensorDescriptor(k1, [*k1.shape[:3], 128], [*k1.stride()[:3], 1], [1, 1, 64, 128])
    q2_tiles = TensorDescriptor(q2, [*q2.shape[:3], 128], [*q2.stride()[:3], 1], [1, 1, 128, 128])
    k2_tiles = TensorDescriptor(k2, [*k2.shape[:3], 128], [*k2.stride()[:3], 1], [1, 1, 64, 128])
    v_tiles = TensorDescriptor(v, [*v.shape[:3], 128], [*v.stride()[:3], 1], [1, 1, 64, 128])
    differential_forward[(tiles * programs,)](q1_tiles, k1_tiles, q2_tiles, k2_tiles, v_tiles, lam, out,
                                              heads // kv_heads, q_len, heads, heads_in_l2, num_warps=8,
                                              num_stages=2)
    return (out,)
