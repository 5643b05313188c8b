"""knn, forward, sm_90: by attngen.

attention knn {
  query x : bf16[S, D]
  key y : bf16[N, D]
  input x_norm : f32[S]
  input y_norm : f32[N]

  values, index = topk(-(x_norm[q_idx] + y_norm[kv_idx] - 2 * dot(x, y)), 10)
  distance = -values
  return distance, index
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
def pack_top(value, kv_idx):
    """[queries, keys] 64-bit keys that sort like (value, lowest index)."""
    bits = value.to(tl.int32, bitcast=True)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (order.to(tl.int64) << 32) | (0x7FFFFFFF - kv_idx)[None, :].to(tl.int64)


@triton.jit
def unpack_value(key):
    """The value of a key of `pack_top`."""
    order = (key >> 32).to(tl.int32)
    return (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def unpack_index(key):
    """The index of a key of `pack_top`, -1 where no key was kept."""
    at = 0x7FFFFFFF - (key & 0x7FFFFFFF).to(tl.int32)
    return tl.where(unpack_value(key) == float("-inf"), -1, at)


@triton.jit
def knn_step(top, x, x_norm_q, y_tiles, kv_len, y_norm_ptr, n, PARTIAL: tl.constexpr):
    """One tile of 64 keys."""
    kv_idx = n + tl.arange(0, 64)  # [keys]
    y = y_tiles.load([0, 0, n, 0]).reshape(64, 128)  # [keys, D]
    y_norm_k = tl.load(y_norm_ptr + kv_idx, mask=kv_idx < kv_len, other=0)
    s = tl.dot(x, y.T)
    candidate = -(x_norm_q[:, None] + y_norm_k[None, :] - 2 * s)
    if PARTIAL:
        keep = (kv_idx < kv_len)[None, :]
        candidate = tl.where(keep, candidate, float("-inf"))
    candidate_best = tl.topk(pack_top(candidate, kv_idx), 16)
    top = tl.topk(tl.reshape(tl.join(top, candidate_best), [64, 32]), 16)
    return top


@triton.jit(do_not_specialize=["q_len", "kv_len"])
def knn_forward(x_tiles, y_tiles, x_norm_ptr, y_norm_ptr, distance_ptr, index_ptr, q_len, kv_len):
    """64 queries of one head; heads that share the cache run together."""
    row0 = (tl.cdiv(q_len, 64) - 1 - tl.program_id(0)) * 64  # longest rows first
    q_idx = row0 + tl.arange(0, 64)  # [queries]
    inside = q_idx < q_len
    x = x_tiles.load([0, 0, row0, 0]).reshape(64, 128)  # [queries, D]
    x_norm_q = tl.load(x_norm_ptr + q_idx, mask=inside, other=0)

    # keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi
    lo = 0
    hi = kv_len
    full_lo = lo
    full_hi = tl.maximum(kv_len // 64 * 64, full_lo)
    top = tl.full([64, 16], -9187343244130779136, tl.int64)
    for n in tl.range(full_lo, full_hi, 64, num_stages=2):
        top = knn_step(top, x, x_norm_q, y_tiles, kv_len, y_norm_ptr, n, False)
    for n in tl.range(full_hi, hi, 64, num_stages=2, disable_licm=True):
        top = knn_step(top, x, x_norm_q, y_tiles, kv_len, y_norm_ptr, n, True)
    top_values = unpack_value(top)
    top_indices = unpack_index(top)

    distance = -top_values  # [queries, 10]
    distance_cells = distance_ptr + (q_idx.to(tl.int64) * 10)[:, None] + tl.arange(0, 16)[None, :]
    tl.store(distance_cells, distance, mask=inside[:, None] & (tl.arange(0, 16) < 10)[None, :])
    index = top_indices.to(index_ptr.dtype.element_ty)  # [queries, 10]
    index_cells = index_ptr + (q_idx.to(tl.int64) * 10)[:, None] + tl.arange(0, 16)[None, :]
    tl.store(index_cells, index, mask=inside[:, None] & (tl.arange(0, 16) < 10)[None, :])


def knn(x, y, x_norm, y_norm):
    """Launches the kernels; the tensors have been checked. Returns the results in the order of the spec."""
    q_len = x.shape[0]
    kv_len = y.shape[0]
    distance = x.new_empty((q_len, 10), dtype=torch.float32)
    index = x.new_empty((q_len, 10), dtype=torch.int64)
    tiles = triton.cdiv(q_len, 64)
    x_tiles = TensorDescriptor(x, [1, 1, x.shape[0], 128], [x.stride(0), x.stride(0), x.stride(0), 1],
                               [1, 1, 64, 128])
    y_tiles = TensorDescriptor(y, [1, 1, y.shape[0], 128], [y.stride(0), y.stride(0), y.stride(0), 1],
                               [1, 1, 64, 128])
    knn_forward[(tiles,)](x_tiles, y_tiles, x_norm, y_norm, distance, index, q_len, kv_len, num_warps=8,
                          num_stages=2)
    return distance, index
