"""Tensors as a kernel sees them: (position, feature, head, batch), whatever the axes in memory.

Of packed sequences the fourth axis is the end of a sequence in the whole of N rows, and a row
stands at N - length + row: what lies past the end of a sequence is past the end of the view. So
TMA reads zeros there and stores nothing (after the ragged descriptors of FlashAttention-4).
"""

from __future__ import annotations

from cutlass import Int32, cute

from attngen.cutelib.plan import Stream

CANONICAL = ("position", "feature", "head", "batch")


def canonical(tensor, stream: Stream):
    """The stream's columns with its axes in canonical order; absent axes have size 1."""
    shape, stride = [], []
    for role in CANONICAL:
        if role not in stream.roles:
            shape.append(1)
            stride.append(0)
            continue
        i = stream.roles.index(role)
        shape.append(stream.width if role == "feature" else tensor.shape[i])
        stride.append(tensor.stride[i])
    iterator = tensor.iterator + stream.start if stream.start else tensor.iterator
    if stream.packed:
        rows, step = shape[0], stride[0]
        shape[3], stride[3] = rows + 1, step
        iterator = (iterator - rows * step).align(16)  # a step is a multiple of 16 bytes
    return cute.make_tensor(iterator, cute.make_layout(tuple(shape), stride=tuple(stride)))


def head_of(stream: Stream, view, head, heads):
    """The head of a stream that serves a query head."""
    if "head" not in stream.roles:
        return Int32(0)
    return head if stream.own_head else head // (heads // view.shape[2])


def batch_of(stream: Stream, batch, end=None):
    """The batch entry of a stream; end: of the sequence, where it is packed."""
    if stream.packed:
        return end
    return batch if "batch" in stream.roles else Int32(0)
