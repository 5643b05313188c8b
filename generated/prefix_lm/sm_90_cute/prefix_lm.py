"""prefix_lm, forward, sm_90: by attngen.

attention prefix_lm {
  query q : bf16[B, H, S, D]
  key k : bf16[B, H, S, D]
  value v : bf16[B, H, S, D]
  input prefix : i32[B]

  mask = kv_idx < prefix[b] or kv_idx <= q_idx
  score = 0.08838834764831843 * dot(q, k)
  out = sum(softmax(score) * v)
}
Schedule: backend=cute, tile_m=128, tile_n=128, stages=2, order=turns, reference=first, form=tile

[attngen:generated]
"""

import torch
from attngen.cutelib import ops
from attngen.cutelib.launch import Forward
from attngen.cutelib.plan import Plan, Schedule, Stream


def end_key(at, q_idx):
    """The key after the last a query keeps."""
    return ops.maximum(ops.minimum(at.kv_len, ops.load(at.prefix, at.b)), q_idx + 1)


def tiles(at):
    """Keys lo..hi are visited; every query keeps those of the second range."""
    lo, hi = 0, ops.maximum(ops.minimum(at.kv_len, ops.load(at.prefix, at.b)), at.row1)
    return lo, hi, 0, ops.maximum(ops.minimum(at.kv_len, ops.load(at.prefix, at.b)), at.row0 + 1)


def finish(at, q_idx, m, l):
    """After the last key: l sums 2**(score - m). What its rows need; numbers stored."""
    inverse = ops.rcp(ops.select(l == 0.0, 1.0, l))  # a row without keys gives 0
    return (inverse,), ()


def out_element(at, row, acc):
    """One element of out, from its sum over the keys."""
    inverse, = row
    return acc * inverse


FORWARD = Forward(Plan(
    name='prefix_lm_forward',
    half='bf16',
    query=Stream('q', ('batch', 'head', 'position', 'feature'), 128),
    key=Stream('k', ('batch', 'head', 'position', 'feature'), 128),
    value=Stream('v', ('batch', 'head', 'position', 'feature'), 128),
    arguments=(('q', 'bf16 4 128'), ('k', 'bf16 4 128'), ('v', 'bf16 4 128'), ('prefix', 'i32 1 0'),
               ('out', 'bf16 4 128'), ('flags', 'i32 1 0')),
    rows=(("out", out_element),),
    result_roles=('batch', 'head', 'position', 'feature'),
    schedule=Schedule(tile_m=128, tile_n=128, stages=2, turns=True, reference='first'),
    scale=0.12751743082459868,
    tiles=tiles,
    finish=finish,
    end_key=end_key,
))


def prefix_lm(q, k, v, prefix):
    """Launches the kernel; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q.shape[0]
    heads = q.shape[1]
    q_len = q.shape[2]
    out = q.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    blocks = (q_len + 127) // 128 * batch * heads
    flags = q.new_empty((8 * blocks,), dtype=torch.int32)  # by warp
    FORWARD(q, k, v, prefix, out, flags)
    return (out,)
