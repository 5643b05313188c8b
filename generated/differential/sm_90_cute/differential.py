"""differential, forward, sm_90: by attngen.

attention differential {
  query q1 : bf16[B, Hq, S, D]
  query q2 : bf16[B, Hq, S, D]
  key k1 : bf16[B, Hkv, S, D]
  key k2 : bf16[B, Hkv, S, D]
  value v : bf16[B, Hkv, S, Dv]
  input lam : f32[Hq]

  mask = causal
  s1 = 0.08838834764831843 * dot(q1, k1)
  s2 = 0.08838834764831843 * dot(q2, k2)
  out = sum(softmax(s1) * v) - lam[h] * sum(softmax(s2) * v)
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
    return q_idx + 1


def tiles(at):
    """Keys lo..hi are visited; every query keeps those of the second range."""
    lo, hi = 0, at.row1
    return lo, hi, 0, at.row0 + 1


def finish(at, q_idx, m, l):
    """After the last key: l sums 2**(score - m). What its rows need; numbers stored."""
    inverse = ops.rcp(ops.select(l == 0.0, 1.0, l))  # a row without keys gives 0
    return (inverse,), ()


def p1_part_element(at, row, acc):
    """One element of p1_part, from its sum over the keys."""
    inverse, = row
    return acc * inverse


def out_element(at, row, acc, p1_part_row):
    """One element of out, from its sum over the keys."""
    inverse, = row
    return p1_part_row - at.lam_tile * acc * inverse


def per_tile(at):
    """Values that are the same for a whole tile."""
    return {"lam_tile": ops.load(at.lam, at.h)}


PART_1 = Forward(Plan(
    name='differential_part_1',
    half='bf16',
    query=Stream('q1', ('batch', 'head', 'position', 'feature'), 128),
    key=Stream('k1', ('batch', 'head', 'position', 'feature'), 128, own_head=False),
    value=Stream('v', ('batch', 'head', 'position', 'feature'), 128, own_head=False),
    arguments=(('q1', 'bf16 4 128'), ('k1', 'bf16 4 128'), ('v', 'bf16 4 128'), ('p1_part', 'bf16 4 128'),
               ('flags', 'i32 1 0')),
    rows=(("p1_part", p1_part_element),),
    result_roles=('batch', 'head', 'position', 'feature'),
    schedule=Schedule(tile_m=128, tile_n=128, stages=2, turns=True, reference='first'),
    scale=0.12751743082459868,
    tiles=tiles,
    finish=finish,
    end_key=end_key,
))
FORWARD = Forward(Plan(
    name='differential_forward',
    half='bf16',
    query=Stream('q2', ('batch', 'head', 'position', 'feature'), 128),
    key=Stream('k2', ('batch', 'head', 'position', 'feature'), 128, own_head=False),
    value=Stream('v', ('batch', 'head', 'position', 'feature'), 128, own_head=False),
    arguments=(('q2', 'bf16 4 128'), ('k2', 'bf16 4 128'), ('v', 'bf16 4 128'), ('lam', 'f32 1 0'),
               ('p1_part', 'bf16 4 128'), ('out', 'bf16 4 128'), ('flags', 'i32 1 0')),
    rows=(("out", out_element),),
    result_roles=('batch', 'head', 'position', 'feature'),
    row_streams=(Stream('p1_part', ('batch', 'head', 'position', 'feature'), 128),),
    schedule=Schedule(tile_m=128, tile_n=128, stages=2, turns=True, reference='first'),
    scale=0.12751743082459868,
    tiles=tiles,
    finish=finish,
    end_key=end_key,
    per_tile=per_tile,
))


def differential(q1, q2, k1, k2, v, lam):
    """Launches the kernel; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q1.shape[0]
    heads = q1.shape[1]
    q_len = q1.shape[2]
    p1_part = q1.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    blocks = (q_len + 127) // 128 * batch * heads
    flags_1 = q1.new_empty((8 * blocks,), dtype=torch.int32)  # by warp
    PART_1(q1, k1, v, p1_part, flags_1)
    out = q1.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    flags = q1.new_empty((8 * blocks,), dtype=torch.int32)  # by warp
    FORWARD(q2, k2, v, lam, p1_part, out, flags)
    return (out,)
