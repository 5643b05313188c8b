"""Layouts of shared memory, views of accumulator registers, and the issue of wgmma products.

The register views follow the thread layout of wgmma's accumulators (PTX ISA, "Register fragments
for wgmma"); the order of issue follows FlashAttention-3's (arXiv 2407.08608) and CUTLASS's.
"""

from __future__ import annotations

import cutlass.utils.hopper_helpers as hop
from cutlass import BFloat16, Float32, Int32, cute
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup
from cutlass.tensor_utils import LayoutEnum

K_MAJOR, MN_MAJOR = OperandMajorMode.K, OperandMajorMode.MN


def swizzled(dtype, rows: int, columns: int, stages: int | None = None):
    """Row-major tiles in 128-byte swizzled blocks: `rows x columns` (x stages)."""
    kind = hop.get_smem_layout_atom(LayoutEnum.ROW_MAJOR, dtype, columns)
    atom = warpgroup.make_smem_layout_atom(kind, dtype)
    if stages is None:
        return cute.tile_to_shape(atom, (rows, columns), order=(0, 1))
    return cute.tile_to_shape(atom, (rows, columns, stages), order=(0, 1, 2))


def result_layout(dtype, columns: int, groups: int, stages: int):
    """Results in the memory of the queries: a warpgroup writes only rows that it alone reads."""
    kind = hop.get_smem_layout_atom(LayoutEnum.ROW_MAJOR, dtype, columns)
    atom = warpgroup.make_smem_layout_atom(kind, dtype)
    return cute.tile_to_shape(atom, (64, columns, groups, stages), order=(0, 2, 1, 3))


def rows_columns(acc):
    """Accumulator ((2,2,V),M,N) as (rows=(2,M), columns=(2,V,N))."""
    s, d = acc.layout.shape, acc.layout.stride
    layout = cute.make_layout(
        ((s[0][1], s[1]), (s[0][0], s[0][2], s[2])),
        stride=((d[0][1], d[1]), (d[0][0], d[0][2], d[2])),
    )
    return cute.make_tensor(acc.iterator, layout)


def as_operand(acc):
    """Accumulator in the register order of a wgmma A operand: the order is the same."""
    split = cute.logical_divide(acc.layout, ((None, None, 2), None, None))
    s, d = split.shape, split.stride
    layout = cute.make_layout(
        ((s[0][0], s[0][1], s[0][2][0]), s[1], (s[0][2][1], s[2])),
        stride=((d[0][0], d[0][1], d[0][2][0]), d[1], (d[0][2][1], d[2])),
    )
    return cute.make_tensor(acc.iterator, layout)


def column_of(register: int) -> int:
    """Column of a score register of lane 0; lane t stands 2 * (t % 4) further right."""
    return register // 2 * 8 + register % 2


def pack(target, source, dtype) -> None:
    """float32 registers to 16-bit ones, two at a time (a vector `.to` is not always packed)."""
    words = cute.recast_tensor(target, Int32)
    name = "bf16x2" if dtype is BFloat16 else "f16x2"
    for i in range(cute.size(words)):
        words[i] = cute.arch.inline_ptx(
            f"cvt.rn.{name}.f32 {{$w0}}, {{$r0}}, {{$r1}};",
            write_only_types=[Int32],
            read_only_args=[source[2 * i + 1], source[2 * i]],
        )


def to_shared(acc, place, dtype, width: int, thread) -> None:
    """A warpgroup's 64 x `width` sums, rounded, to shared memory by `stmatrix`; no fence."""
    packed = cute.make_rmem_tensor(acc.shape, dtype)
    pack(packed, acc, dtype)
    one = hop.make_trivial_tiled_mma(
        dtype,
        dtype,
        K_MAJOR,
        MN_MAJOR,
        Float32,
        (1, 1, 1),
        (64, width),
        a_source=warpgroup.OperandSource.RMEM,
    )
    atom = cute.make_copy_atom(cute.nvgpu.warp.StMatrix8x8x16bOp(False, 4), dtype)
    copy = cute.make_tiled_copy_C(atom, one).get_slice(thread % 128)
    cute.copy(atom, copy.retile(packed), copy.partition_D(place))


def issue(tiled_mma, acc, pairs, accumulate: bool) -> None:
    """One wgmma per 16 columns of each (A, B) pair, as one group; no wait.

    A fresh atom for each call: its flag is a value of the program, and those must not leave a loop.
    """
    warpgroup.fence()
    atom = cute.make_mma_atom(tiled_mma.op)
    atom.set(warpgroup.Field.ACCUMULATE, accumulate)
    for a, b in pairs:
        for k in range(cute.size(a.shape[2])):
            cute.gemm(atom, acc, a[None, None, k], b[None, None, k], acc)
            atom.set(warpgroup.Field.ACCUMULATE, True)
    warpgroup.commit_group()
