"""gemma2, forward, sm_90: by attngen.

attention gemma2 {
  param window = 4096
  param cap = 50.0
  query q : bf16[B, Sq, Hq, D]
  key k : bf16[B, Skv, Hkv, D]
  value v : bf16[B, Skv, Hkv, D]

  mask = causal and q_pos - kv_idx < 4096
  score = 50.0 * tanh(0.0017677669529663686 * dot(q, k))
  out = sum(softmax(score) * v)
}
Schedule: backend=cute, tile_m=128, tile_n=128, stages=2, order=turns, reference=fixed, form=flat

[attngen:generated]
"""

import torch
from attngen.cutelib import ops
from attngen.cutelib.launch import Forward
from attngen.cutelib.plan import Plan, Schedule, Stream


def first_key(at, q_idx):
    """The first key a query keeps."""
    return ops.maximum(0, at.kv_len + q_idx - at.q_len - 4095)


def end_key(at, q_idx):
    """The key after the last a query keeps."""
    return at.kv_len + q_idx - at.q_len + 1


def tiles(at):
    """Keys lo..hi are visited; every query keeps those of the second range."""
    lo, hi = ops.maximum(0, at.kv_len + at.row0 - at.q_len - 4095), at.kv_len + at.row1 - at.q_len
    return lo, hi, ops.maximum(0, at.kv_len + at.row1 - at.q_len - 4096), at.kv_len + at.row0 - at.q_len + 1


def score(at, s, column, diagonal, q_idx, kv_idx):
    """The score of a pair from its product s, without terms of the row; log2 units over 72.13475204444816."""
    return ops.tanh(0.0017677669529663686 * s)


def finish(at, q_idx, m, l):
    """After the last key: l sums 2**(score - m). What its rows need; numbers stored."""
    inverse = ops.rcp(ops.select(l == 0.0, 1.0, l))  # a row without keys gives 0
    return (inverse,), ()


def out_element(at, row, acc):
    """One element of out, from its sum over the keys."""
    inverse, = row
    return acc * inverse


FORWARD = Forward(Plan(
    name='gemma2_forward',
    half='bf16',
    query=Stream('q', ('batch', 'position', 'head', 'feature'), 128),
    key=Stream('k', ('batch', 'position', 'head', 'feature'), 128, own_head=False),
    value=Stream('v', ('batch', 'position', 'head', 'feature'), 128, own_head=False),
    arguments=(('q', 'bf16 4 128'), ('k', 'bf16 4 128'), ('v', 'bf16 4 128'), ('out', 'bf16 4 128'),
               ('tickets', 'i32 1 0')),
    rows=(("out", out_element),),
    result_roles=('batch', 'position', 'head', 'feature'),
    schedule=Schedule(tile_m=128, tile_n=128, stages=2, turns=True, reference='fixed', flat=True, l2=1),
    scale=72.13475204444816,
    tiles=tiles,
    finish=finish,
    first_key=first_key,
    end_key=end_key,
    score=score,
))


def gemma2(q, k, v):
    """Launches the kernel; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q.shape[0]
    heads = q.shape[2]
    q_len = q.shape[1]
    out = q.new_empty((batch, q_len, heads, 128), dtype=torch.bfloat16)
    tickets = q.new_zeros((1,), dtype=torch.int32)
    FORWARD(q, k, v, out, tickets)
    return (out,)
