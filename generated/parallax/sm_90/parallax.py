"""parallax, forward, sm_90: by attngen.

attention parallax {
  query q : bf16[B, Hq, Sq, D]
  query r : bf16[B, Hq, Sq, D]
  key k : bf16[B, Hkv, Skv, D]
  value v : bf16[B, Hkv, Skv, D]

  mask = causal
  p = softmax(0.08838834764831843 * dot(q, k))
  u = dot(r, k)
  out = (1 + sum(p * u)) * sum(p * v) - sum(p * u * v)
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
def parallax_step(sum_u, acc_v, acc_uv, m_i, l_i, q, r, k_tiles, v_tiles, b, h_kv, n, q_pos,
                  PARTIAL: tl.constexpr):
    """One tile of 64 keys."""
    kv_idx = n + tl.arange(0, 64)  # [keys]
    k = k_tiles.load([b, h_kv, n, 0]).reshape(64, 128)  # [keys, D]
    s = tl.dot(q, k.T)
    u = tl.dot(r, k.T)
    if PARTIAL:
        keep = kv_idx[None, :] <= q_pos[:, None]
        s = tl.where(keep, s, float("-inf"))
    m_new = tl.maximum(m_i, tl.max(s, 1) * 0.12751743082459868)
    m_safe = tl.where(m_new == float("-inf"), 0.0, m_new) if PARTIAL else m_new
    p = tl.exp2(s * 0.12751743082459868 - m_safe[:, None])
    alpha = tl.exp2(m_i - m_safe)
    m_i = m_new
    l_i = l_i * alpha + tl.sum(p, 1)
    v = v_tiles.load([b, h_kv, n, 0]).reshape(64, 128)  # [keys, D]
    w = p * u
    if PARTIAL:
        w = tl.where(keep, w, 0.0)
    sum_u = sum_u * alpha + tl.sum(w, 1)
    acc_v = tl.dot(p.to(v.dtype), v, acc_v * alpha[:, None])
    acc_uv = tl.dot(w.to(v.dtype), v, acc_uv * alpha[:, None])
    return sum_u, acc_v, acc_uv, m_i, l_i


@triton.jit(do_not_specialize=["group", "q_len", "kv_len", "heads", "heads_in_l2"])
def parallax_forward(q_tiles, k_tiles, r_tiles, v_tiles, out_ptr, group, q_len, kv_len, heads, heads_in_l2):
    """64 queries of one head; heads that share the cache run together."""
    tiles = tl.cdiv(q_len, 64)
    program = tl.program_id(0)
    head_group = program // (tiles * heads_in_l2)
    in_group = program % (tiles * heads_in_l2)
    bh = head_group * heads_in_l2 + in_group % heads_in_l2
    row0 = (tiles - 1 - in_group // heads_in_l2) * 64  # longest rows first
    b = bh // heads
    h = bh % heads
    h_kv = h // group
    row1 = tl.minimum(row0 + 64, q_len)
    q_idx = row0 + tl.arange(0, 64)  # [queries]
    inside = q_idx < q_len
    q_pos = q_idx + (kv_len - q_len)  # key position of each query
    q = q_tiles.load([b, h, row0, 0]).reshape(64, 128)  # [queries, D]
    r = r_tiles.load([b, h, row0, 0]).reshape(64, 128)  # [queries, D]

    # keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi
    lo = 0
    hi = kv_len + row1 - q_len
    full_lo = lo
    full_hi = tl.maximum((kv_len + row0 - q_len + 1) // 64 * 64, full_lo)
    sum_u = tl.zeros([64], tl.float32)
    acc_v = tl.zeros([64, 128], tl.float32)
    acc_uv = tl.zeros([64, 128], tl.float32)
    m_i = tl.full([64], float("-inf"), tl.float32)
    l_i = tl.zeros([64], tl.float32)
    for n in tl.range(full_lo, full_hi, 64, num_stages=2):
        sum_u, acc_v, acc_uv, m_i, l_i = parallax_step(sum_u, acc_v, acc_uv, m_i, l_i, q, r, k_tiles,
                                                       v_tiles, b, h_kv, n, q_pos, False)
    for n in tl.range(full_hi, hi, 64, num_stages=2, disable_licm=True):
        sum_u, acc_v, acc_uv, m_i, l_i = parallax_step(sum_u, acc_v, acc_uv, m_i, l_i, q, r, k_tiles,
                                                       v_tiles, b, h_kv, n, q_pos, True)
    total = tl.where(l_i == 0.0, 1.0, l_i)  # a row with no key gives 0
    u_bar = sum_u / total
    v_bar = acc_v / total[:, None]
    uv_bar = acc_uv / total[:, None]

    out_head = out_ptr + b.to(tl.int64) * heads * q_len * 128 + h.to(tl.int64) * q_len * 128
    out = ((1 + u_bar)[:, None] * v_bar - uv_bar).to(out_ptr.dtype.element_ty)  # [queries, 128]
    out_cells = out_head + (q_idx.to(tl.int64) * 128)[:, None] + tl.arange(0, 128)[None, :]
    tl.store(out_cells, out, mask=inside[:, None])


def parallax(q, r, k, v):
    """Launches the kernels; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q.shape[0]
    heads = q.shape[1]
    q_len = q.shape[2]
    kv_len = k.shape[2]
    kv_heads = k.shape[1]
    out = q.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    tiles = triton.cdiv(q_len, 64)
    programs = batch * heads
    in_l2 = max(1, 26214400 // max(1, kv_len * 512))
    # a power of two that divides the number of programs of a tile
    heads_in_l2 = min(1 << (in_l2.bit_length() - 1), programs & -programs)
    q_tiles = TensorDescriptor(q, [*q.shape[:3], 128], [*q.stride()[:3], 1], [1, 1, 64, 128])
    k_tiles = TensorDescriptor(k, [*k.shape[:3], 128], [*k.stride()[:3], 1], [1, 1, 64, 128])
    r_tiles = TensorDescriptor(r, [*r.shape[:3], 128], [*r.stride()[:3], 1], [1, 1, 64, 128])
    v_tiles = TensorDescriptor(v, [*v.shape[:3], 128], [*v.stride()[:3], 1], [1, 1, 64, 128])
    parallax_forward[(tiles * programs,)](q_tiles, k_tiles, r_tiles, v_tiles, out, heads // kv_heads, q_len,
                                          kv_len, heads, heads_in_l2, num_warps=8, num_stages=2)
    return (out,)
