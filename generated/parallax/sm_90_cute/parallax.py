"""parallax, forward, sm_90: by attngen.

attention parallax {
  query q : bf16[B, Hq, Sq, D]
  query r : bf16[B, Hq, Sq, D]
  key k : bf16[B, Hkv, Skv, D]
  value v : bf16[B, Hkv, Skv, D]

  mask = causal
  p = softmax(0.08838834764831843 * dot(q, k))
  u = dot(r, k)
  out = (1 + sum(p * u)) * sum(p * v) - sum(p * u * v)
}
Schedule: backend=cute, tile_m=128, tile_n=64, stages=3, order=turns, reference=first, form=tile

[attngen:generated]
"""

import torch
from attngen.cutelib import ops
from attngen.cutelib.launch import Forward
from attngen.cutelib.plan import Plan, Schedule, Stream


def end_key(at, q_idx):
    """The key after the last a query keeps."""
    return at.kv_len + q_idx - at.q_len + 1


def tiles(at):
    """Keys lo..hi are visited; every query keeps those of the second range."""
    lo, hi = 0, at.kv_len + at.row1 - at.q_len
    return lo, hi, 0, at.kv_len + at.row0 - at.q_len + 1


def payloads(at, s, u, q_idx, kv_idx):
    """What weights are multiplied with before they are summed, from the products of a pair."""
    return (u,)


def finish(at, q_idx, m, l, sum_u):
    """After the last key: l sums 2**(score - m). What its rows need; numbers stored."""
    inverse = ops.rcp(ops.select(l == 0.0, 1.0, l))  # a row without keys gives 0
    sum_u_mean = sum_u * inverse
    return (inverse, sum_u_mean), ()


def out_element(at, row, acc_v, acc_uv):
    """One element of out, from its sums over the keys."""
    inverse, sum_u_mean = row
    return (1.0 + sum_u_mean) * acc_v * inverse - acc_uv * inverse


FORWARD = Forward(Plan(
    name='parallax_forward',
    half='bf16',
    query=Stream('q', ('batch', 'head', 'position', 'feature'), 128),
    key=Stream('k', ('batch', 'head', 'position', 'feature'), 128, own_head=False),
    value=Stream('v', ('batch', 'head', 'position', 'feature'), 128, own_head=False),
    arguments=(('q', 'bf16 4 128'), ('r', 'bf16 4 128'), ('k', 'bf16 4 128'), ('v', 'bf16 4 128'),
               ('out', 'bf16 4 128'), ('flags', 'i32 1 0')),
    rows=(("out", out_element),),
    result_roles=('batch', 'head', 'position', 'feature'),
    schedule=Schedule(tile_m=128, tile_n=64, stages=3, turns=True, reference='first'),
    scale=0.12751743082459868,
    products=(Stream('r', ('batch', 'head', 'position', 'feature'), 128),),
    sums=(0, 1),
    totals=(1,),
    tiles=tiles,
    finish=finish,
    end_key=end_key,
    payloads=payloads,
))


def parallax(q, r, k, v):
    """Launches the kernel; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q.shape[0]
    heads = q.shape[1]
    q_len = q.shape[2]
    out = q.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    blocks = (q_len + 127) // 128 * batch * heads
    flags = q.new_empty((8 * blocks,), dtype=torch.int32)  # by warp
    FORWARD(q, r, k, v, out, flags)
    return (out,)
