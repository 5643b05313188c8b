"""A hand-written stand-in for what the emitter makes: scaled copy of rows, one kernel, no dot."""

from attngen.backend.emitted import DeviceKernel, Emitted

SOURCE = '''"""Scales rows."""

import torch
import triton
import triton.language as tl


@triton.jit
def scale_rows(q_ptr, out_ptr, rows, q_stride, factor, WIDTH: tl.constexpr):
    """One row a program."""
    row = tl.program_id(0)
    column = tl.arange(0, WIDTH)
    x = tl.load(q_ptr + row * q_stride + column, mask=row < rows)
    tl.store(out_ptr + row * WIDTH + column, (x * factor).to(x.dtype), mask=row < rows)


def scale(q, factor):
    """Result [S, D]."""
    out = torch.empty_like(q)
    scale_rows[(q.shape[0],)](q, out, q.shape[0], q.stride(0), float(factor), WIDTH=q.shape[1])
    return (out,)
'''

EMITTED = Emitted(
    source=SOURCE,
    entry="scale",
    arguments=("q", "factor"),
    outputs=("out",),
    kernels=(
        DeviceKernel(
            name="scale_rows",
            signature={
                "q_ptr": "*bf16",
                "out_ptr": "*bf16",
                "rows": "i32",
                "q_stride": "i32",
                "factor": "fp32",
                "WIDTH": "constexpr",
            },
            constants={"WIDTH": 128},
            divisible=("q_ptr", "out_ptr", "q_stride"),
            warps=4,
            stages=2,
        ),
    ),
)
