"""relative_bias, forward, sm_90: by attngen.

attention relative_bias {
  param buckets = 64
  query q : bf16[B, H, S, D]
  key k : bf16[B, H, S, D]
  value v : bf16[B, H, S, D]
  input table : f32[H, 129]
  input bias : bf16[B, H, S, S]

  offset = min(max(kv_idx - q_idx, -64), 64) + 64
  score = 0.08838834764831843 * dot(q, k) + table[h, offset] + bias[b, h, q_idx, kv_idx]
  out = sum(softmax(score) * v)
}
Schedule: backend=cute, tile_m=128, tile_n=128, stages=2, order=turns, reference=first, form=tile

[attngen:generated]
"""

import torch
from attngen.cutelib import ops
from attngen.cutelib.launch import Forward
from attngen.cutelib.plan import Plan, Rider, Schedule, Stream


def tiles(at):
    """Keys lo..hi are visited; every query keeps those of the second range."""
    lo, hi = 0, at.kv_len
    return lo, hi, 0, at.kv_len


def diagonal(at, q_idx, kv_idx):
    """Terms of kv_idx - q_idx alone: once per diagonal."""
    return 11.313708498984761 * ops.load(at.table, at.h,
                                         ops.minimum(ops.maximum(kv_idx - q_idx, -64), 64) + 64)


def score(at, s, column, diagonal, q_idx, kv_idx):
    """The score of a pair from its product s, without terms of the row; log2 units over 0.12751743082459868."""
    rest = 11.313708498984761 * at.bias_pair
    return s + rest + diagonal


def finish(at, q_idx, m, l):
    """After the last key: l sums 2**(score - m). What its rows need; numbers stored."""
    inverse = ops.rcp(ops.select(l == 0.0, 1.0, l))  # a row without keys gives 0
    return (inverse,), ()


def out_element(at, row, acc):
    """One element of out, from its sum over the keys."""
    inverse, = row
    return acc * inverse


FORWARD = Forward(Plan(
    name='relative_bias_forward',
    half='bf16',
    query=Stream('q', ('batch', 'head', 'position', 'feature'), 128),
    key=Stream('k', ('batch', 'head', 'position', 'feature'), 128),
    value=Stream('v', ('batch', 'head', 'position', 'feature'), 128),
    arguments=(('q', 'bf16 4 128'), ('k', 'bf16 4 128'), ('v', 'bf16 4 128'), ('table', 'f32 2 129'),
               ('bias', 'bf16 4 0'), ('out', 'bf16 4 128'), ('flags', 'i32 1 0')),
    rows=(("out", out_element),),
    result_roles=('batch', 'head', 'position', 'feature'),
    schedule=Schedule(tile_m=128, tile_n=128, stages=2, turns=True, reference='first'),
    scale=0.12751743082459868,
    riders=(Rider('bias_pair', 'bias', ('batch', 'head', 'query', 'key'), 'bf16'),),
    tiles=tiles,
    finish=finish,
    diagonal=diagonal,
    score=score,
))


def relative_bias(q, k, v, table, bias):
    """Launches the kernel; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q.shape[0]
    heads = q.shape[1]
    q_len = q.shape[2]
    out = q.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    blocks = (q_len + 127) // 128 * batch * heads
    flags = q.new_empty((8 * blocks,), dtype=torch.int32)  # by warp
    FORWARD(q, k, v, table, bias, out, flags)
    return (out,)
