"""Tensors that ride with the keys: what a score reads of them lies in shared memory beside K.

A tile of a tensor of pairs (a bias), or what a tensor of keys holds for a block (a decay), is
loaded by TMA and completes the barrier of its block of keys. Without it every score has an address
of its own and waits for global memory in the middle of the softmax. Elements past an end are zeros.
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.utils.hopper_helpers as hop
from cutlass import BFloat16, Float16, Float32, Int32, Int64, cute
from cutlass.cute.nvgpu import cpasync
from cutlass.cutlass_dsl import select_

from attngen.cutelib.fragments import K_MAJOR, result_layout, rows_columns, swizzled
from attngen.cutelib.ops import Position
from attngen.cutelib.plan import Plan, Rider

DTYPES = {"bf16": BFloat16, "f16": Float16, "f32": Float32}


def view_of(rider: Rider, tensor):
    """(query, key, head, batch) of pairs, (key, head, batch) of keys; absent axes have size 1.

    So have heads and batches along which the stride is 0: a descriptor has no such axes.
    """
    shape, stride = [], []
    unit = 128 // DTYPES[rider.dtype].width
    for mode in (*rider.tile_roles, "head", "batch"):
        role = "kv_head" if mode == "head" and "kv_head" in rider.roles else mode
        if role not in rider.roles:
            shape.append(1)
            stride.append(0)
            continue
        i = rider.roles.index(role)
        size, step = tensor.shape[i], tensor.stride[i]
        broadcast = mode in ("head", "batch")
        shape.append(_one_if_broadcast(size, step) if broadcast else size)
        stride.append(_legal(step, unit) if broadcast else step)
    layout = cute.make_layout(tuple(shape), stride=tuple(stride))
    return cute.make_tensor(tensor.iterator, layout)


def _one_if_broadcast(size, step):
    return select_(step == 0, Int32(1), Int32(size))


def _legal(step, unit: int):
    """A stride that a descriptor takes: for an axis of size 1 any multiple of 16 bytes will do."""
    return cute.assume(select_(step == 0, Int64(unit), Int64(step)), divby=unit)


def layout_of(rider: Rider, plan: Plan):
    """Shared memory of all stages; pairs in the blocks that `ldmatrix` reads without conflicts."""
    s = plan.schedule
    if rider.pairs:
        return swizzled(DTYPES[rider.dtype], s.tile_m, s.tile_n, s.stages)
    return cute.make_layout((s.tile_n, s.stages))


def copy_of(rider: Rider, plan: Plan, tensor):
    """(atom, coordinates) of the TMA load of a tile."""
    s = plan.schedule
    tile = (s.tile_m, s.tile_n) if rider.pairs else (s.tile_n,)
    load = cpasync.CopyBulkTensorTileG2SOp()
    return cpasync.make_tiled_tma_atom(load, view_of(rider, tensor), layout_of(rider, plan), tile)


def bytes_of(rider: Rider, plan: Plan) -> int:
    """Bytes of one stage: what a load adds to its barrier."""
    s = plan.schedule
    return DTYPES[rider.dtype].width // 8 * s.tile_n * (s.tile_m if rider.pairs else 1)


def memory_of(rider: Rider, plan: Plan, place) -> Any:
    """The tensor in shared memory, of all stages."""
    layout = layout_of(rider, plan)
    dtype = DTYPES[rider.dtype]
    if rider.pairs:
        return place.get_tensor(layout.outer, swizzle=layout.inner, dtype=dtype)
    return place.get_tensor(layout, dtype=dtype)


def parts_of(rider: Rider, plan: Plan, whole, atom, memory, block, head, batch):
    """(into, from) of a tile's loads, block by block."""
    s = plan.schedule
    heads, batches = whole.shape[-2], whole.shape[-1]  # 1 where it is the same for all
    head, batch = cutlass.min(head, heads - 1), cutlass.min(batch, batches - 1)
    if rider.pairs:
        tiles = cute.local_tile(whole[None, None, head, batch], (s.tile_m, s.tile_n), (block, None))
        into, source = cute.group_modes(memory, 0, 2), cute.group_modes(tiles, 0, 2)
    else:
        tiles = cute.local_tile(whole[None, head, batch], (s.tile_n,), (None,))
        into, source = memory, tiles
    return cpasync.tma_partition(atom, 0, cute.make_layout(1), into, source)


class Riders:
    """The riders as a warpgroup reads them."""

    def __init__(self, plan: Plan, memory, group, thread, lane) -> None:
        self.plan, self.memory, self.group = plan, memory, group
        self.thread, self.lane = thread, lane

    def keys(self, stage) -> dict[str, Any]:
        """Attributes of `at`: values of a block of keys."""
        return {
            x.name: KeyValues(self.memory[x.name][None, stage], self.lane)
            for x in self.plan.riders
            if not x.pairs
        }

    def pairs(self, stage, shape) -> dict[str, Any]:
        """Elements at a thread's scores, (rows, columns), by their attribute of `at`."""
        return {x.name: self._read(x, stage, shape) for x in self.plan.riders if x.pairs}

    def _read(self, rider: Rider, stage, shape):
        """By `ldmatrix`: a thread gets what it has scores for."""
        s, dtype = self.plan.schedule, DTYPES[rider.dtype]
        layout = result_layout(dtype, s.tile_n, s.groups, s.stages)  # the same places
        whole = cute.make_tensor(self.memory[rider.name].iterator, layout.outer)
        place = whole[None, None, self.group, stage]
        one = hop.make_trivial_tiled_mma(
            dtype, dtype, K_MAJOR, K_MAJOR, Float32, (1, 1, 1), (64, s.tile_n)
        )
        atom = cute.make_copy_atom(cute.nvgpu.warp.LdMatrix8x8x16bOp(False, 4), dtype)
        copy = cute.make_tiled_copy_C(atom, one).get_slice(self.thread % 128)
        packed = cute.make_rmem_tensor(shape, dtype)
        cute.copy(atom, copy.partition_S(place), copy.retile(packed))
        wide = cute.make_rmem_tensor(shape, Float32)
        unpack(wide, packed, dtype)
        return rows_columns(wide)


def unpack(target, source, dtype) -> None:
    """16-bit registers to float32 ones; a bfloat16 is the upper half of a float32."""
    if dtype is not BFloat16:
        target.store(source.load().to(Float32))
        return
    words = cute.recast_tensor(source, Int32)
    for i in range(cute.size(words)):
        for half, text in enumerate(("shl.b32 t, {$r0}, 16", "and.b32 t, {$r0}, 0xffff0000")):
            target[2 * i + half] = cute.arch.inline_ptx(
                f"{{ .reg .b32 t; {text}; mov.b32 {{$w0}}, t; }}",
                write_only_types=[Float32],
                read_only_args=[words[i]],
            )


class KeyValues:
    """What a tensor of keys holds for a block."""

    def __init__(self, row, lane) -> None:
        self.row, self.lane = row, lane

    def of(self, kv_idx: Position):
        """The value of a key of the block, which stands `offset` behind the thread's first one."""
        value = self.row[self.lane + kv_idx.offset]
        return value if value.dtype is Float32 else value.to(Float32)
