"""Tensors that span gibibytes of addresses and take a few pages of memory."""

import mmap

import torch


def sparse_rows(shape, row_stride, dtype=torch.bfloat16):
    """Zeros [1, heads, rows, width], rows `row_stride` elements apart, heads beside them."""
    _, heads, rows, width = shape
    elements = rows * row_stride
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, elements * dtype.itemsize, flags=flags)
    flat = torch.frombuffer(memory, dtype=dtype)
    return flat.as_strided(shape, (heads * width, width, row_stride, 1))
