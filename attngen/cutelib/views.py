"""Tensors as a kernel sees them: (position, feature, head, batch), whatever the axes in memory."""

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
    return cute.make_tensor(iterator, cute.make_layout(tuple(shape), stride=tuple(stride)))


def head_of(stream: Stream, view, head, heads):
    """The head of a stream that serves a query head."""
    if "head" not in stream.roles:
        return Int32(0)
    return head if stream.own_head else head // (heads // view.shape[2])


def batch_of(stream: Stream, batch):
    """The batch entry of a stream."""
    return batch if "batch" in stream.roles else Int32(0)
