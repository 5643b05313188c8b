"""alibi_documents, forward, sm_90: by attngen.

attention alibi_documents {
  query q : bf16[B, Hq, S, D]
  key k : bf16[B, Hkv, S, D]
  value v : bf16[B, Hkv, S, D]
  input slope : f32[Hq]
  input doc : i32[B, S] sorted

  mask = doc[b, q_idx] == doc[b, kv_idx] and kv_idx <= q_idx
  score = 0.08838834764831843 * dot(q, k) + slope[h] * (kv_idx - q_idx)
  out = sum(softmax(score) * v)
}
Schedule: block_q=64, block_k=64, warps=4, stages=3, loads=descriptor, loops=joined, form=tile,
  precision=ieee

[attngen:generated]
"""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def first_ge(row, value, length):
    """First position of a sorted row whose element is >= value, else `length`: 128 probes at a time."""
    lo = 0  # every element before lo is smaller
    hi = length  # every element from hi on is not
    while lo < hi:
        step = tl.cdiv(hi - lo, 128)
        at = lo + tl.arange(0, 128) * step
        smaller = (at < hi) & (tl.load(row + at, mask=at < hi, other=0) < value)
        count = tl.sum(smaller.to(tl.int32), 0)
        hi = tl.where(count == 0, lo, tl.minimum(lo + count * step, hi))
        lo = tl.where(count == 0, lo, lo + (count - 1) * step + 1)
    return lo


@triton.jit
def larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def run_starts(row, at, inside, first):
    """Start of the run of equal elements around each position of a tile; `first`: of the first one."""
    here = tl.load(row + at, mask=inside, other=0)
    before = tl.load(row + at - 1, mask=inside & (at > 0), other=0)
    return tl.associative_scan(tl.where(inside & (here != before), at, first), 0, larger)


@triton.jit
def alibi_documents_step(acc_v, m_i, l_i, q, slope, k_tiles, v_tiles, doc_starts, b, h_kv, n, row0, q_idx,
                         partial):
    """One tile of 64 keys."""
    kv_idx = n + tl.arange(0, 64)  # [keys]
    k = k_tiles.load([b, h_kv, n, 0]).reshape(64, 128)  # [keys, D]
    column = 1.4426950408889634 * (slope * (kv_idx - row0))
    s = tl.dot(q, k.T)
    score = column[None, :] + 0.12751743082459868 * s  # log2 units
    if partial:
        keep = (kv_idx[None, :] >= doc_starts[:, None]) & (kv_idx[None, :] <= q_idx[:, None])
        score = tl.where(keep, score, float("-inf"))
    m_new = tl.maximum(m_i, tl.max(score, 1))
    m_safe = tl.where(m_new == float("-inf"), 0.0, m_new)
    p = tl.exp2(score - m_safe[:, None])
    alpha = tl.exp2(m_i - m_safe)
    m_i = m_new
    l_i = l_i * alpha + tl.sum(p, 1)
    v = v_tiles.load([b, h_kv, n, 0]).reshape(64, 128)  # [keys, D]
    acc_v = tl.dot(p.to(v.dtype), v, acc_v * alpha[:, None])
    return acc_v, m_i, l_i


@triton.jit(do_not_specialize=["doc_stride_0", "group", "q_len", "heads", "heads_in_l2"])
def alibi_documents_forward(q_tiles, k_tiles, v_tiles, doc_ptr, slope_ptr, out_ptr, doc_stride_0, group,
                            q_len, heads, heads_in_l2):
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
    doc_base = doc_ptr + b.to(tl.int64) * doc_stride_0
    slope_base = slope_ptr + h
    q = q_tiles.load([b, h, row0, 0]).reshape(64, 128)  # [queries, D]
    slope = tl.load(slope_base)
    doc_start = first_ge(doc_base, tl.load(doc_base + row0), row0 + 1)
    doc_starts = run_starts(doc_base, q_idx, inside, doc_start)

    # keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi
    lo = doc_start // 64 * 64
    hi = row1
    full_lo = tl.maximum(tl.cdiv(tl.max(doc_starts, 0), 64) * 64, lo)
    full_hi = tl.maximum((row0 + 1) // 64 * 64, full_lo)
    acc_v = tl.zeros([64, 128], tl.float32)
    m_i = tl.full([64], float("-inf"), tl.float32)
    l_i = tl.zeros([64], tl.float32)
    for n in tl.range(lo, hi, 64, num_stages=3, disable_licm=True):
        acc_v, m_i, l_i = alibi_documents_step(acc_v, m_i, l_i, q, slope, k_tiles, v_tiles, doc_starts, b,
                                               h_kv, n, row0, q_idx, (n < full_lo) | (n >= full_hi))

    out_head = out_ptr + b.to(tl.int64) * heads * q_len * 128 + h.to(tl.int64) * q_len * 128
    out = (acc_v / l_i[:, None]).to(out_ptr.dtype.element_ty)  # [queries, 128]
    out_cells = out_head + (q_idx.to(tl.int64) * 128)[:, None] + tl.arange(0, 128)[None, :]
    tl.store(out_cells, out, mask=inside[:, None])


def alibi_documents(q, k, v, slope, doc):
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
    v_tiles = TensorDescriptor(v, [*v.shape[:3], 128], [*v.stride()[:3], 1], [1, 1, 64, 128])
    alibi_documents_forward[(tiles * programs,)](q_tiles, k_tiles, v_tiles, doc, slope, out, doc.stride(0),
                                                 heads // kv_heads, q_len, heads, heads_in_l2, num_warps=4,
                                                 num_stages=3)
    return (out,)
