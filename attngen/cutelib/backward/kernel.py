"""The backward kernel: host side (views, TMA descriptors, grid) and the split of roles.

One warp loads, one adds dQ to memory, two warpgroups of 64 keys multiply. A block of threads walks
the query heads that share its keys one after the other, so dK and dV need no atomics.
"""

import cuda.bindings.driver as cuda
import cutlass
from cutlass import Float32, cute, pipeline
from cutlass.cute.nvgpu import cpasync, warpgroup
from cutlass.memory import SmemAllocator

from attngen.cutelib import fragments
from attngen.cutelib.backward.consumer import Consumer
from attngen.cutelib.backward.drain import Drain
from attngen.cutelib.backward.plan import BackwardPlan
from attngen.cutelib.backward.producer import Source
from attngen.cutelib.backward.tiles import chunk_of, place_of
from attngen.cutelib.fragments import swizzled
from attngen.cutelib.tile import WARPGROUP, At
from attngen.cutelib.views import canonical

DTYPES = {"bf16": cutlass.BFloat16, "f16": cutlass.Float16}
GROUPS = 2  # consumer warpgroups
REGISTERS = (24, 240)  # producer, consumers: 64k for all


class Launch:
    """The host side of one plan: `launch(arguments, stream)` inside a `cute.jit` function."""

    def __init__(self, plan: BackwardPlan) -> None:
        self.kernel = Kernel(plan)

    def __call__(self, arguments: dict, stream) -> None:
        """Launch the kernel."""
        self.kernel.launch(arguments, stream)


class Kernel:
    """One backward kernel."""

    def __init__(self, plan: BackwardPlan) -> None:
        self.plan, self.dtype = plan, DTYPES[plan.half]
        s, width = plan.schedule, plan.query.width
        self.split_m = s.tile_m // 64 == GROUPS  # of dQ: else the warpgroups split its columns
        self.box = (64, width if self.split_m else width // GROUPS)

    # ---- host -----------------------------------------------------------------------------------
    @cute.jit
    def launch(self, arguments: dict, stream: cuda.CUstream):
        """TMA descriptors, grid, launch."""
        plan, s = self.plan, self.plan.schedule
        views = {x.name: canonical(arguments[x.tensor], x) for x in plan.streams}
        loads, stores = cpasync.CopyBulkTensorTileG2SOp(), cpasync.CopyBulkTensorTileS2GOp()
        adds = cpasync.CopyReduceBulkTensorTileS2GOp()
        layouts = self.layouts()
        tiles = {
            "q": (loads, plan.query, (s.tile_m, plan.query.width)),
            "o": (loads, plan.seed, (s.tile_m, plan.seed.width)),
            "k": (loads, plan.key, (s.tile_n, plan.key.width)),
            "v": (loads, plan.value, (s.tile_n, plan.value.width)),
            "dq": (adds, plan.dq, self.box),
            "dk": (stores, plan.dk, (64, plan.key.width)),
            "dv": (stores, plan.dv, (64, plan.value.width)),
        }
        copies = {
            n: cpasync.make_tiled_tma_atom(op, views[x.name], layouts[n], tile)
            for n, (op, x, tile) in tiles.items()
        }
        q, k = views[plan.query.name], views[plan.key.name]
        heads, batch = q.shape[2], q.shape[3]
        blocks, pairs = cute.ceil_div(k.shape[0], s.tile_n), k.shape[2] * batch
        geometry = (
            q.shape[0],
            k.shape[0],
            heads,
            heads // k.shape[2],
            blocks,
            k.shape[2],
            pairs,
            chunk_of(plan, pairs),
        )
        used = (plan.query.name, plan.seed.name, plan.key.name, plan.value.name)
        given = {n: x for n, x in arguments.items() if n not in views}
        self.device(
            {n: a for n, (a, _) in copies.items()},
            {n: t for n, (_, t) in copies.items()},
            {n: views[n] for n in used},
            given,
            geometry,
        ).launch(
            grid=(blocks * pairs, 1, 1),
            block=(WARPGROUP * (1 + GROUPS), 1, 1),
            stream=stream,
            min_blocks_per_mp=1,
        )

    def layouts(self) -> dict:
        """Shared memory; made anew on the host and in the kernel, they are constants."""
        plan, s, dt = self.plan, self.plan.schedule, self.dtype
        return {
            "q": swizzled(dt, s.tile_m, plan.query.width, s.stages),
            "o": swizzled(dt, s.tile_m, plan.seed.width, s.stages),
            "k": self._keys(),
            "v": swizzled(dt, s.tile_n, plan.value.width),
            "ds": swizzled(dt, s.tile_n, s.tile_m, s.stages),
            "dq": swizzled(Float32, *self.box, GROUPS),
            "dk": self._result(plan.key.width),
            "dv": self._result(plan.value.width),
        }

    def _keys(self):
        """K in blocks of the columns that a warpgroup multiplies dS with."""
        plan, s = self.plan, self.plan.schedule
        kind = fragments.hop.get_smem_layout_atom(
            fragments.LayoutEnum.ROW_MAJOR, self.dtype, self.box[1]
        )
        atom = warpgroup.make_smem_layout_atom(kind, self.dtype)
        return cute.tile_to_shape(atom, (s.tile_n, plan.key.width), order=(0, 1))

    def _result(self, width: int):
        """A result in the memory of the tile it belongs to: row by row the same addresses."""
        kind = fragments.hop.get_smem_layout_atom(fragments.LayoutEnum.ROW_MAJOR, self.dtype, width)
        atom = warpgroup.make_smem_layout_atom(kind, self.dtype)
        return cute.tile_to_shape(atom, (64, width, GROUPS), order=(0, 2, 1))

    def products(self):
        """(S^T and dP^T, the operand of the sums, dQ) as tiled wgmmas."""
        plan, dt, make = self.plan, self.dtype, fragments.hop.make_trivial_tiled_mma
        k_major, mn_major = fragments.K_MAJOR, fragments.MN_MAJOR
        split = (GROUPS, 1, 1) if self.split_m else (1, GROUPS, 1)
        return (
            make(dt, dt, k_major, k_major, Float32, (GROUPS, 1, 1), (64, plan.schedule.tile_m)),
            self.sum_products()[0],
            make(dt, dt, mn_major, mn_major, Float32, split, self.box),
        )

    def sum_products(self):
        """(dK, dV): an operand in registers times rows of Q, of dO."""
        make, plan = fragments.hop.make_trivial_tiled_mma, self.plan
        return tuple(
            make(
                self.dtype,
                self.dtype,
                fragments.K_MAJOR,
                fragments.MN_MAJOR,
                Float32,
                (GROUPS, 1, 1),
                (64, width),
                a_source=warpgroup.OperandSource.RMEM,
            )
            for width in (plan.key.width, plan.value.width)
        )

    def storage(self, layouts: dict):
        """Shared memory of a block of threads."""
        dt, s = self.dtype, self.plan.schedule

        def tile(*names: str, of=dt):
            count = max(cute.cosize(layouts[n]) for n in names)
            return cute.struct.Align[cute.struct.MemRange[of, count], 1024]

        room = len(self.plan.ring_of) * s.tile_m * s.stages

        @cute.struct
        class Storage:
            bar_kv: cute.struct.MemRange[cutlass.Int64, 2]
            bar_q: cute.struct.MemRange[cutlass.Int64, 2 * s.stages]
            bar_o: cute.struct.MemRange[cutlass.Int64, 2 * s.stages]
            numbers: cute.struct.Align[cute.struct.MemRange[Float32, room], 128]
            q: tile("q")
            o: tile("o")
            k: tile("k", "dk")
            v: tile("v", "dv")
            ds: tile("ds")
            dq: tile("dq", of=Float32)

        return Storage

    # ---- device ---------------------------------------------------------------------------------
    @cute.kernel
    def device(self, atoms: dict, maps: dict, views: dict, given: dict, geometry: tuple):
        """Barriers, then the roles."""
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        if warp == 0:
            for atom in atoms.values():
                cpasync.prefetch_descriptor(atom)
        layouts = self.layouts()
        storage = SmemAllocator().allocate(self.storage(layouts))
        rings = self._rings(storage, layouts)
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()
        memory = self._memory(storage, layouts)
        q_len, kv_len, heads, group, *grid = geometry
        at = At({**given, **views, "q_len": q_len, "kv_len": kv_len, "heads": heads})
        block, head, batch = place_of(cute.arch.block_idx()[0], tuple(grid))
        at = at.with_values(b=batch, h_kv=head, group=group)
        if warp < 4:
            cute.arch.setmaxregister_decrease(REGISTERS[0])
            if warp == 0:
                self._produce(atoms, maps, memory, rings, at, block)
            if warp == 1:
                self._drain(atoms, maps, memory, at, block)
        else:
            cute.arch.setmaxregister_increase(REGISTERS[1])
            self._consume(atoms, maps, memory, rings, at, block)

    def _rings(self, storage, layouts) -> dict:
        plan, s = self.plan, self.plan.schedule
        numbers = list(plan.ring_of.values())
        size = {
            n: cute.size_in_bytes(self.dtype, cute.select(layouts[n], mode=[0, 1]))
            for n in ("q", "o", "k", "v")
        }
        row = 4 * s.tile_m
        return {
            "kv": self._ring(storage.bar_kv, 1, size["k"] + size["v"]),
            "q": self._ring(storage.bar_q, s.stages, size["q"] + row * numbers.count("q")),
            "o": self._ring(storage.bar_o, s.stages, size["o"] + row * numbers.count("o")),
        }

    def _ring(self, barriers, stages: int, bytes_: int):
        """A ring of TMA loads: consumers give a stage back with one thread per warp."""
        group = pipeline.CooperativeGroup
        return pipeline.PipelineTmaAsync.create(
            barrier_storage=barriers.data_ptr(),
            num_stages=stages,
            producer_group=group(pipeline.Agent.Thread, 1),
            consumer_group=group(pipeline.Agent.Thread, 4 * GROUPS),
            tx_count=bytes_,
            defer_sync=True,
        )

    def _memory(self, storage, layouts) -> dict:
        s = self.plan.schedule
        owners = {"dk": "k", "dv": "v"}
        memory = {
            n: getattr(storage, owners.get(n, n)).get_tensor(x.outer, swizzle=x.inner)
            for n, x in layouts.items()
        }
        row = s.tile_m * s.stages
        for i, name in enumerate(self.plan.ring_of):
            start = (storage.numbers.data_ptr() + i * row).align(128)
            memory[name] = cute.make_tensor(start, cute.make_layout((s.tile_m, s.stages)))
        return memory

    @cute.jit
    def _produce(self, atoms, maps, memory, rings, at, block):
        source = Source(self.plan, atoms, maps, memory, rings, at)
        source.keys(block, at.h_kv, at.b)
        source.heads(block)

    @cute.jit
    def _drain(self, atoms, maps, memory, at, block):
        drain = Drain(self.plan, atoms, maps, memory, at, self.box, self.split_m)
        drain.heads(block)
        drain.finish()

    @cute.jit
    def _consume(self, atoms, maps, memory, rings, at, block):
        consumer = Consumer(self, atoms, maps, memory, rings, at)
        consumer.start()
        consumer.heads(block)
        consumer.epilogue.finish(block, at.h_kv, at.b, consumer.dk, consumer.dv)
