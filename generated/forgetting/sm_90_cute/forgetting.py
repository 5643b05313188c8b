"""forgetting, forward, sm_90: by attngen.

attention forgetting {
  query q : bf16[B, H, S, D]
  key k : bf16[B, H, S, D]
  value v : bf16[B, H, S, D]
  input cum : f32[B, H, S]

  mask = causal
  score = 0.08838834764831843 * dot(q, k) + cum[b, h, q_idx] - cum[b, h, kv_idx]
  out = sum(softmax(score) * v)
}
Schedule: backend=cute, tile_m=128, tile_n=128, stages=2, order=turns, reference=first, form=tile

[attngen:generated]
"""

import torch
from attngen.cutelib import ops
from attngen.cutelib.launch import Forward
from attngen.cutelib.plan import Plan, Rider, Schedule, Stream


def end_key(at, q_idx):
    """The key after the last a query keeps."""
    return q_idx + 1


def tiles(at):
    """Keys lo..hi are visited; every query keeps those of the second range."""
    lo, hi = 0, at.row1
    return lo, hi, 0, at.row0 + 1


def column(at, kv_idx):
    """Terms of the key alone."""
    return at.factor - 11.313708498984761 * at.cum_keys.of(kv_idx)


def score(at, s, column, diagonal, q_idx, kv_idx):
    """The score of a pair from its product s, without terms of the row; log2 units over 0.12751743082459868."""
    return s + column


def finish(at, q_idx, m, l):
    """After the last key: l sums 2**(score - m). What its rows need; numbers stored."""
    inverse = ops.rcp(ops.select(l == 0.0, 1.0, l))  # a row without keys gives 0
    return (inverse,), ()


def out_element(at, row, acc):
    """One element of out, from its sum over the keys."""
    inverse, = row
    return acc * inverse


def per_tile(at):
    """Values that are the same for a whole tile."""
    return {"factor": 11.313708498984761
            * ops.finite(ops.load(at.cum, at.b, at.h,
                                  ops.minimum(ops.maximum(at.row0, 0), at.cum.shape[2] - 1)))}


FORWARD = Forward(Plan(
    name='forgetting_forward',
    half='bf16',
    query=Stream('q', ('batch', 'head', 'position', 'feature'), 128),
    key=Stream('k', ('batch', 'head', 'position', 'feature'), 128),
    value=Stream('v', ('batch', 'head', 'position', 'feature'), 128),
    arguments=(('q', 'bf16 4 128'), ('k', 'bf16 4 128'), ('v', 'bf16 4 128'), ('cum', 'f32 3 0'),
               ('out', 'bf16 4 128'), ('flags', 'i32 1 0')),
    rows=(("out", out_element),),
    result_roles=('batch', 'head', 'position', 'feature'),
    schedule=Schedule(tile_m=128, tile_n=128, stages=2, turns=True, reference='first'),
    scale=0.12751743082459868,
    riders=(Rider('cum_keys', 'cum', ('batch', 'head', 'key'), 'f32'),),
    tiles=tiles,
    finish=finish,
    end_key=end_key,
    column=column,
    score=score,
    per_tile=per_tile,
))


def forgetting(q, k, v, cum):
    """Launches the kernel; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q.shape[0]
    heads = q.shape[1]
    q_len = q.shape[2]
    out = q.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    blocks = (q_len + 127) // 128 * batch * heads
    flags = q.new_empty((8 * blocks,), dtype=torch.int32)  # by warp
    FORWARD(q, k, v, cum, out, flags)
    return (out,)
