"""alibi_documents, forward, sm_90: by attngen.

attention alibi_documents {
  query q : bf16[B, Hq, S, D]
  key k : bf16[B, Hkv, S, D]
  value v : bf16[B, Hkv, S, D]
  input slope : f32[Hq]
  input doc : i32[B, S] sorted

  mask = doc[b, q_idx] == doc[b, kv_idx] and kv_idx <= q_idx
  score = 0.08838834764831843 * dot(q, k) + slope[h] * (kv_idx - q_idx)
  out = sum(softmax(score) * v)
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
    return at.doc_runs.of(q_idx)


def end_key(at, q_idx):
    """The key after the last a query keeps."""
    return q_idx + 1


def tiles(at):
    """Keys lo..hi are visited; every query keeps those of the second range."""
    lo, hi = at.doc_runs.first, at.row1
    return lo, hi, at.doc_runs.last, at.row0 + 1


def doc_row(at):
    """Sorted elements; the mask follows runs of equal ones."""
    return at.doc[at.b, None]


def slope(at):
    """What a score grows by per key, log2 units."""
    return at.slope_scaled


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
    return {"slope_scaled": 1.4426950408889634 * ops.load(at.slope, at.h)}


FORWARD = Forward(Plan(
    name='alibi_documents_forward',
    half='bf16',
    query=Stream('q', ('batch', 'head', 'position', 'feature'), 128),
    key=Stream('k', ('batch', 'head', 'position', 'feature'), 128, own_head=False),
    value=Stream('v', ('batch', 'head', 'position', 'feature'), 128, own_head=False),
    arguments=(('q', 'bf16 4 128'), ('k', 'bf16 4 128'), ('v', 'bf16 4 128'), ('slope', 'f32 1 0'),
               ('doc', 'i32 2 0'), ('out', 'bf16 4 128'), ('flags', 'i32 1 0'), ('tickets', 'i32 1 0')),
    rows=(("out", out_element),),
    result_roles=('batch', 'head', 'position', 'feature'),
    schedule=Schedule(tile_m=128, tile_n=128, stages=2, turns=True, reference='first', flat=True, l2=1),
    scale=0.12751743082459868,
    runs=(("doc_runs", doc_row),),
    tiles=tiles,
    finish=finish,
    first_key=first_key,
    end_key=end_key,
    slope=slope,
    per_tile=per_tile,
))


def alibi_documents(q, k, v, slope, doc):
    """Launches the kernel; the tensors have been checked. Returns the results in the order of the spec."""
    batch = q.shape[0]
    heads = q.shape[1]
    q_len = q.shape[2]
    out = q.new_empty((batch, heads, q_len, 128), dtype=torch.bfloat16)
    blocks = (q_len + 127) // 128 * batch * heads
    flags = q.new_empty((8 * blocks,), dtype=torch.int32)  # by warp
    tickets = q.new_zeros((1,), dtype=torch.int32)
    FORWARD(q, k, v, slope, doc, out, flags, tickets)
    return (out,)
