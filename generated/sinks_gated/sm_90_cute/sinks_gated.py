"""sinks_gated, forward, sm_90: by attngen.

attention sinks_gated {
  param window = 128
  query q : bf16[B, Hq, Sq, D]
  key k : bf16[B, Hkv, Skv, D]
  value v : bf16[B, Hkv, Skv, D]
  input sink : f32[Hq]
  input g : bf16[B, Hq, Sq, D]

  mask = causal and q_pos - kv_idx < 128
  score = 0.08838834764831843 * dot(q, k)
  out = sum(softmax(score, sink = sink[h]) * v) * sigmoid(g[b, h, q_idx])
}
Schedule: backend=cute, tile_m=128, tile_n=128, stages=2, order=turns, reference=first, form=flat

[attngen:generated]
"""

import torch
from attngen.cutelib import ops
from attngen.cutelib.launch import Forward
from attngen.cutelib.plan import Plan, Schedule, Stream


def first_key(at, q_idx):
    """The first key a query keeps."""
    return ops.maximum(0, at.kv_len + q_idx - at.q_len - 127)


def end_key(at, q_idx):
    """The key after the last a query keeps."""
    return at.kv_len + q_idx - at.q_len + 1


def tiles(at):
    """Keys lo..hi are visited; every query keeps those of the second range."""
    lo, hi = ops.maximum(0, at.kv_len + at.row0 - at.q_len - 127), at.kv_len + at.row1 - at.q_len
    return lo, hi, ops.maximum(0, at.kv_len + at.row1 - at.q_len - 128), at.kv_len + at.row0 - at.q_len + 1


def finish(at, q_idx, m, l):
    """After the last key: l sums 2**(score - m). What its rows need; numbers stored."""
    total = l + ops.exp2(1.4426950408889634 * ops.load(at.sink, at.h) - m)
    inverse = ops.rcp(total)
    return (inverse,), ()


def out_element(at, row, acc, g_row):
    """One element of out, from its sum over the keys."""
    inverse, = row
    return acc * inverse * ops.sigmoid(g_row)


FORWARD = Forward(Plan(
    name='sinks_gated_forward',
    half='bf16',
    query=Stream('q', ('batch', 'head', 'position', 'feature'), 128),
    key=Stream('k', ('batch', 'head', 'position', 'feature'), 128, own_head=False),
    value=Stream('v', ('batch', 'head', 'position', 'feature'), 128, own_head=False),
    arguments=(('q', 'bf16 4 128'), ('k', 'bf16 4 128'), ('v', 'bf16 4 128'), ('sink', 'f32 1 0'),
               ('g', 'bf16 4 128'), ('out', 'bf16 4 128'), ('flags', 'i32 1 0'), ('tickets', 'i32 1 0')),
    rows=(("out", out_element),),
    result_roles=('batch', 'head', 'position', 'feature'),
    row_streams=(Stream('g', ('batch', 'head', 'position', 'feature'), 128),),
    schedule=Schedule(tile_m=128, tile_n=128, stages=2, turns=True, reference='first', flat=True, l2=1),
    scale=0.12751743082459868,
    tiles=tiles,
    finish=finish,
    first_key=first_key,
    end_key=end_key,
))


def sinks_gated(q, k, v, sink, g):
    """Launches the kernel; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q.shape[0]
    heads = q.shape[1]
    q_len = q.shape[2]
    out = q.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    blocks = (q_len + 127) // 128 * batch * heads
    flags = q.new_empty((8 * blocks,), dtype=torch.int32)  # by warp
    tickets = q.new_zeros((1,), dtype=torch.int32)
    FORWARD(q, k, v, sink, g, out, flags, tickets)
    return (out,)
