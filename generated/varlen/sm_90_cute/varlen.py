"""varlen, forward, sm_90: by attngen.

attention varlen {
  query q : bf16[T, Hq, D] packed(cu_q)
  key k : bf16[T, Hkv, D] packed(cu_kv)
  value v : bf16[T, Hkv, D] packed(cu_kv)
  input cu_q : i32[B + 1]
  input cu_kv : i32[B + 1]

  mask = causal
  score = 0.08838834764831843 * dot(q, k)
  out = sum(softmax(score) * v)
}
Schedule: backend=cute, tile_m=128, tile_n=128, stages=2, order=turns, reference=first, form=flat

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


def finish(at, q_idx, m, l):
    """After the last key: l sums 2**(score - m). What its rows need; numbers stored."""
    inverse = ops.rcp(ops.select(l == 0.0, 1.0, l))  # a row without keys gives 0
    return (inverse,), ()


def out_element(at, row, acc):
    """One element of out, from its sum over the keys."""
    inverse, = row
    return acc * inverse


FORWARD = Forward(Plan(
    name='varlen_forward',
    half='bf16',
    query=Stream('q', ('position', 'head', 'feature'), 128, packed='cu_q'),
    key=Stream('k', ('position', 'head', 'feature'), 128, own_head=False, packed='cu_kv'),
    value=Stream('v', ('position', 'head', 'feature'), 128, own_head=False, packed='cu_kv'),
    arguments=(('q', 'bf16 3 128'), ('k', 'bf16 3 128'), ('v', 'bf16 3 128'), ('cu_q', 'i32 1 0'),
               ('cu_kv', 'i32 1 0'), ('out', 'bf16 3 128'), ('flags', 'i32 1 0'), ('tickets', 'i32 1 0')),
    rows=(("out", out_element),),
    result_roles=('position', 'head', 'feature'),
    schedule=Schedule(tile_m=128, tile_n=128, stages=2, turns=True, reference='first', flat=True, l2=1),
    scale=0.12751743082459868,
    tiles=tiles,
    finish=finish,
    end_key=end_key,
))


def varlen(q, k, v, cu_q, cu_kv):
    """Launches the kernel; the tensors have been checked. Returns the results in the order of the spec."""
    batch = cu_q.shape[0] - 1
    heads = q.shape[1]
    q_len = q.shape[0]
    out = q.new_empty((q_len, heads, 128), dtype=torch.bfloat16)
    blocks = (q_len // 128 + batch) * heads
    flags = q.new_empty((8 * blocks,), dtype=torch.int32)  # by warp
    tickets = q.new_zeros((1,), dtype=torch.int32)
    FORWARD(q, k, v, cu_q, cu_kv, out, flags, tickets)
    return (out,)
