"""varlen, forward, sm_90: by attngen.

attention varlen {
  query q : bf16[T, Hq, D] packed(cu_q)
  key k : bf16[T, Hkv, D] packed(cu_kv)
  value v : bf16[T, Hkv, D] packed(cu_kv)
  input cu_q : i32[B + 1]
  input cu_kv : i32[B + 1]

  mask = causal
  score = 0.08838834764831843 * dot(q, k)
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
def sequence_of(starts, slot, batch, BLOCK: tl.constexpr, rows=1):
    """Last sequence b with starts[b] * rows // BLOCK + b <= slot: 128 probes at a time."""
    lo = 0
    hi = batch
    while lo < hi:
        step = tl.cdiv(hi - lo, 128)
        at = lo + tl.arange(0, 128) * step
        before = (at < hi) & (tl.load(starts + at, mask=at < hi, other=0) * rows // BLOCK + at <= slot)
        count = tl.sum(before.to(tl.int32), 0)
        hi = tl.where(count == 0, lo, tl.minimum(lo + count * step, hi))
        lo = tl.where(count == 0, lo, lo + (count - 1) * step + 1)
    return lo - 1


@triton.jit
def varlen_step(acc_v, m_i, l_i, q, k_tiles, v_tiles, h_kv, n, q_pos, kv_start, kv_len,
                PARTIAL: tl.constexpr):
    """One tile of 64 keys."""
    kv_idx = n + tl.arange(0, 64)  # [keys]
    k = k_tiles.load([0, h_kv, kv_start + n, 0]).reshape(64, 128)  # [keys, D]
    if PARTIAL:  # rows past the end belong to the next sequence
        k = tl.where((kv_idx < kv_len)[:, None], k, 0.0)
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
    v = v_tiles.load([0, h_kv, kv_start + n, 0]).reshape(64, 128)  # [keys, D]
    if PARTIAL:  # rows past the end belong to the next sequence
        v = tl.where((kv_idx < kv_len)[:, None], v, 0.0)
    acc_v = tl.dot(p.to(v.dtype), v, acc_v * alpha[:, None])
    return acc_v, m_i, l_i


@triton.jit(do_not_specialize=["group", "heads", "batch", "heads_in_l2", "slots"])
def varlen_forward(q_tiles, k_tiles, v_tiles, cu_q_ptr, cu_kv_ptr, out_ptr, group, heads, batch, heads_in_l2,
                   slots):
    """64 queries of one head; heads that share the cache run together."""
    program = tl.program_id(0)
    head_group = program // (slots * heads_in_l2)
    in_group = program % (slots * heads_in_l2)
    h = head_group * heads_in_l2 + in_group % heads_in_l2
    # sequence b owns the slots from q_starts[b] // 64 + b on, one for each of its tiles and one spare
    slot = slots - 1 - in_group // heads_in_l2
    b = sequence_of(cu_q_ptr, slot, batch, 64)
    q_start = tl.load(cu_q_ptr + b)
    q_len = tl.load(cu_q_ptr + b + 1) - q_start
    kv_start = tl.load(cu_kv_ptr + b)
    kv_len = tl.load(cu_kv_ptr + b + 1) - kv_start
    row0 = (slot - q_start // 64 - b) * 64
    if row0 >= q_len:
        return
    h_kv = h // group
    row1 = tl.minimum(row0 + 64, q_len)
    q_idx = row0 + tl.arange(0, 64)  # [queries]
    inside = q_idx < q_len
    q_pos = q_idx + (kv_len - q_len)  # key position of each query
    q = q_tiles.load([0, h, q_start + row0, 0]).reshape(64, 128)  # [queries, D]

    # keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi
    lo = 0
    hi = kv_len + row1 - q_len
    full_lo = lo
    full_hi = tl.maximum((kv_len + row0 - q_len + 1) // 64 * 64, full_lo)
    acc_v = tl.zeros([64, 128], tl.float32)
    m_i = tl.full([64], float("-inf"), tl.float32)
    l_i = tl.zeros([64], tl.float32)
    for n in tl.range(full_lo, full_hi, 64, num_stages=3):
        acc_v, m_i, l_i = varlen_step(acc_v, m_i, l_i, q, k_tiles, v_tiles, h_kv, n, q_pos, kv_start, kv_len,
                                      False)
    for n in tl.range(full_hi, hi, 64, num_stages=3, disable_licm=True):
        acc_v, m_i, l_i = varlen_step(acc_v, m_i, l_i, q, k_tiles, v_tiles, h_kv, n, q_pos, kv_start, kv_len,
                                      True)
    total = tl.where(l_i == 0.0, 1.0, l_i)  # a row with no key gives 0

    out_head = out_ptr + h.to(tl.int64) * 128
    out = (acc_v / total[:, None]).to(out_ptr.dtype.element_ty)  # [queries, 128]
    out_cells = (
        out_head + ((q_start + q_idx).to(tl.int64) * (heads * 128))[:, None] + tl.arange(0, 128)[None, :]
    )
    tl.store(out_cells, out, mask=inside[:, None])


def varlen(q, k, v, cu_q, cu_kv):
    """Launches the kernels; the tensors have been checked. Returns the results in the order of the spec."""
    batch = cu_q.shape[0] - 1
    heads = q.shape[1]
    q_len = q.shape[0]
    kv_len = k.shape[0]
    kv_heads = k.shape[1]
    out = q.new_empty((q_len, heads, 128), dtype=torch.bfloat16)
    tiles = q_len // 64 + batch  # an upper bound
    programs = heads
    in_l2 = max(1, 26214400 // max(1, kv_len * 512))
    # a power of two that divides the number of programs of a tile
    heads_in_l2 = min(1 << (in_l2.bit_length() - 1), programs & -programs)
    q_tiles = TensorDescriptor(q, [1, q.shape[1], q.shape[0], 128],
                               [q.stride(0), q.stride(1), q.stride(0), 1], [1, 1, 64, 128])
    k_tiles = TensorDescriptor(k, [1, k.shape[1], k.shape[0], 128],
                               [k.stride(0), k.stride(1), k.stride(0), 1], [1, 1, 64, 128])
    v_tiles = TensorDescriptor(v, [1, v.shape[1], v.shape[0], 128],
                               [v.stride(0), v.stride(1), v.stride(0), 1], [1, 1, 64, 128])
    varlen_forward[(tiles * programs,)](q_tiles, k_tiles, v_tiles, cu_q, cu_kv, out, heads // kv_heads,
                                        heads, batch, heads_in_l2, tiles, num_warps=4, num_stages=3)
    return (out,)
