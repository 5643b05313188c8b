"""kmeans_assign, forward, sm_90: by attngen.

attention kmeans_assign {
  query x : bf16[S, D]
  key c : bf16[K, D]
  input c_norm : f32[K]

  out = argmin(c_norm[kv_idx] - 2 * dot(x, c))
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
def kmeans_assign_step(best, best_idx, x, c_tiles, kv_len, c_norm_ptr, n, PARTIAL: tl.constexpr):
    """One tile of 64 keys."""
    kv_idx = n + tl.arange(0, 64)  # [keys]
    c = c_tiles.load([0, 0, n, 0]).reshape(64, 128)  # [keys, D]
    c_norm_k = tl.load(c_norm_ptr + kv_idx, mask=kv_idx < kv_len, other=0)
    s = tl.dot(x, c.T)
    candidate = -(c_norm_k[None, :] - 2 * s)
    if PARTIAL:
        keep = (kv_idx < kv_len)[None, :]
        candidate = tl.where(keep, candidate, float("-inf"))
    candidate_max, candidate_at = tl.max(candidate, 1, return_indices=True,
                                         return_indices_tie_break_left=True)
    better = candidate_max > best
    best_idx = tl.where(better, n + candidate_at, best_idx)
    best = tl.where(better, candidate_max, best)
    return best, best_idx


@triton.jit(do_not_specialize=["q_len", "kv_len"])
def kmeans_assign_forward(x_tiles, c_tiles, c_norm_ptr, out_ptr, q_len, kv_len):
    """128 queries of one head; heads that share the cache run together."""
    row0 = (tl.cdiv(q_len, 128) - 1 - tl.program_id(0)) * 128  # longest rows first
    q_idx = row0 + tl.arange(0, 128)  # [queries]
    inside = q_idx < q_len
    x = x_tiles.load([0, 0, row0, 0]).reshape(128, 128)  # [queries, D]

    # keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi
    lo = 0
    hi = kv_len
    full_lo = lo
    full_hi = tl.maximum(kv_len // 64 * 64, full_lo)
    best = tl.full([128], float("-inf"), tl.float32)
    best_idx = tl.full([128], -1, tl.int32)
    for n in tl.range(full_lo, full_hi, 64, num_stages=2):
        best, best_idx = kmeans_assign_step(best, best_idx, x, c_tiles, kv_len, c_norm_ptr, n, False)
    for n in tl.range(full_hi, hi, 64, num_stages=2, disable_licm=True):
        best, best_idx = kmeans_assign_step(best, best_idx, x, c_tiles, kv_len, c_norm_ptr, n, True)

    tl.store(out_ptr + q_idx, best_idx.to(out_ptr.dtype.element_ty), mask=inside)


def kmeans_assign(x, c, c_norm):
    """Launches the kernels; the tensors have been checked. Returns the results in the order of the spec."""
    q_len = x.shape[0]
    kv_len = c.shape[0]
    out = x.new_empty((q_len,), dtype=torch.int64)
    tiles = triton.cdiv(q_len, 128)
    x_tiles = TensorDescriptor(x, [1, 1, x.shape[0], 128], [x.stride(0), x.stride(0), x.stride(0), 1],
                               [1, 1, 128, 128])
    c_tiles = TensorDescriptor(c, [1, 1, c.shape[0], 128], [c.stride(0), c.stride(0), c.stride(0), 1],
                               [1, 1, 64, 128])
    kmeans_assign_forward[(tiles,)](x_tiles, c_tiles, c_norm, out, q_len, kv_len, num_warps=4, num_stages=2)
    return (out,)
