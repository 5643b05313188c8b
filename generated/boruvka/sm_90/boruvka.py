"""boruvka, forward, sm_90: by attngen.

attention boruvka {
  query x : f32[S, D]
  key y : f32[S, D]
  input norm : f32[S]
  input core : f32[S]
  input comp : i32[S]

  mask = comp[q_idx] != comp[kv_idx]
  d2 = norm[q_idx] + norm[kv_idx] - 2 * dot(x, y)
  reach = -max(-max(d2, max(core[q_idx], core[kv_idx])))
  index = argmin(max(d2, max(core[q_idx], core[kv_idx])))
  return reach, index
}
Schedule: block_q=16, block_k=16, warps=8, stages=1, loads=pointer, loops=split, form=tile,
  precision=ieee

[attngen:generated]
"""

import torch
import triton
import triton.language as tl


@triton.jit
def boruvka_step_any_kept(comp_q, kv_len, comp_ptr, n, inside):
    kv_idx = n + tl.arange(0, 16)
    comp_k_1 = tl.load(comp_ptr + kv_idx, mask=kv_idx < kv_len, other=0)
    keep = (comp_q[:, None] != comp_k_1[None, :]) & (kv_idx < kv_len)[None, :]
    return tl.max(tl.max((keep & inside[:, None]).to(tl.int32), 1), 0) > 0


@triton.jit
def boruvka_step(best, best_idx, x, norm_q, core_q, comp_q, y_stride_s, y_ptr, kv_len, norm_ptr, core_ptr,
                 comp_ptr, n):
    """One tile of 16 keys."""
    kv_idx = n + tl.arange(0, 16)  # [keys]
    y_cells = y_ptr + (kv_idx.to(tl.int64) * y_stride_s)[:, None] + tl.arange(0, 128)[None, :]
    y = tl.load(y_cells, mask=(kv_idx < kv_len)[:, None], other=0.0)  # [keys, D]
    norm_k = tl.load(norm_ptr + kv_idx, mask=kv_idx < kv_len, other=0)
    core_k = tl.load(core_ptr + kv_idx, mask=kv_idx < kv_len, other=0)
    s = tl.dot(x, y.T, input_precision="ieee")
    d2 = norm_q[:, None] + norm_k[None, :] - 2 * s
    candidate = -tl.maximum(d2, tl.maximum(core_q[:, None], core_k[None, :]))
    comp_k = tl.load(comp_ptr + kv_idx, mask=kv_idx < kv_len, other=0)
    keep = (comp_q[:, None] != comp_k[None, :]) & (kv_idx < kv_len)[None, :]
    candidate = tl.where(keep, candidate, float("-inf"))
    candidate_max, candidate_at = tl.max(candidate, 1, return_indices=True,
                                         return_indices_tie_break_left=True)
    better = candidate_max > best
    best_idx = tl.where(better, n + candidate_at, best_idx)
    best = tl.where(better, candidate_max, best)
    return best, best_idx


@triton.jit(do_not_specialize=["q_len", "kv_len"])
def boruvka_forward(x_ptr, y_ptr, norm_ptr, core_ptr, comp_ptr, reach_ptr, index_ptr, x_stride_s, y_stride_s,
                    q_len, kv_len):
    """16 queries of one head; heads that share the cache run together."""
    row0 = (tl.cdiv(q_len, 16) - 1 - tl.program_id(0)) * 16  # longest rows first
    q_idx = row0 + tl.arange(0, 16)  # [queries]
    inside = q_idx < q_len
    x_cells = x_ptr + (q_idx.to(tl.int64) * x_stride_s)[:, None] + tl.arange(0, 128)[None, :]
    x = tl.load(x_cells, mask=inside[:, None], other=0.0)  # [queries, D]
    norm_q = tl.load(norm_ptr + q_idx, mask=inside, other=0)
    core_q = tl.load(core_ptr + q_idx, mask=inside, other=0)
    comp_q = tl.load(comp_ptr + q_idx, mask=inside, other=0)

    # keys lo..hi are visited
    lo = 0
    hi = kv_len
    best = tl.full([16], float("-inf"), tl.float32)
    best_idx = tl.full([16], -1, tl.int32)
    for n in tl.range(lo, hi, 16, num_stages=1, disable_licm=True):
        # no bound could be derived from the whole mask: empty tiles are skipped here
        if boruvka_step_any_kept(comp_q, kv_len, comp_ptr, n, inside):
            best, best_idx = boruvka_step(best, best_idx, x, norm_q, core_q, comp_q, y_stride_s, y_ptr,
                                          kv_len, norm_ptr, core_ptr, comp_ptr, n)

    tl.store(reach_ptr + q_idx, -best, mask=inside)
    tl.store(index_ptr + q_idx, best_idx.to(index_ptr.dtype.element_ty), mask=inside)


def boruvka(x, y, norm, core, comp):
    """Launches the kernels; the tensors have been checked. Returns the results in the order of the spec."""
    q_len = x.shape[0]
    kv_len = y.shape[0]
    reach = x.new_empty((q_len,), dtype=torch.float32)
    index = x.new_empty((q_len,), dtype=torch.int64)
    tiles = triton.cdiv(q_len, 16)
    boruvka_forward[(tiles,)](x, y, norm, core, comp, reach, index, x.stride(0), y.stride(0), q_len, kv_len,
                              num_warps=8, num_stages=1)
    return reach, index
