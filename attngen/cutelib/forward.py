"""The forward kernel: host side (views, TMA descriptors, grid) and the split of roles.

One producer warp issues TMA loads, one to three consumer warpgroups multiply. The structure is
FlashAttention-3's (arXiv 2407.08608); the shared memory of O and Q, the pin, the walk over masked
and full blocks and the redone tiles are this project's.
"""

import cuda.bindings.driver as cuda
import cutlass
from cutlass import Float32, const_expr, cute, pipeline
from cutlass.cute.nvgpu import cpasync, warpgroup
from cutlass.memory import SmemAllocator

from attngen.cutelib import fragments
from attngen.cutelib.consumer import Consumer
from attngen.cutelib.flat import Board, FlatConsumer, FlatSource
from attngen.cutelib.fragments import result_layout, swizzled
from attngen.cutelib.order import Grid
from attngen.cutelib.plan import Plan, Stream
from attngen.cutelib.producer import Source, other
from attngen.cutelib.redo import FlatRedo, FlatSeveralRedo, Redo, SeveralRedo
from attngen.cutelib.riders import bytes_of, copy_of, memory_of
from attngen.cutelib.several import FlatSeveralConsumer, SeveralConsumer
from attngen.cutelib.tile import WARPGROUP, At
from attngen.cutelib.views import canonical

DTYPES = {"bf16": cutlass.BFloat16, "f16": cutlass.Float16}
REGISTERS = {1: (56, 256), 2: (24, 240), 3: (32, 160)}  # producer, consumer: 64k for all
SEARCHING = {1: (56, 256), 2: (40, 232), 3: (32, 160)}  # of a producer that searches
SHARED = 227 << 10  # bytes that a block of threads can have on sm_90
CONSUMERS = {
    (False, False, False): Consumer,
    (False, False, True): FlatConsumer,
    (False, True, False): Redo,
    (False, True, True): FlatRedo,
    (True, False, False): SeveralConsumer,
    (True, False, True): FlatSeveralConsumer,
    (True, True, False): SeveralRedo,
    (True, True, True): FlatSeveralRedo,
}  # by (several sums, redo, flat)
RIDERS = ("rider_1", "rider_2", "rider_3")  # their places in shared memory
LOW_RANK = 16  # columns of the extra product: the least that wgmma takes


class Launch:
    """The host side of one plan: `launch(arguments, stream)` inside a `cute.jit` function."""

    def __init__(self, plan: Plan) -> None:
        self.kernel, self.redo = Kernel(plan), plan.schedule.redo

    def __call__(self, arguments: dict, stream) -> None:
        """Launch the kernel."""
        flags, tickets = arguments.pop("flags", None), arguments.pop("tickets", None)
        given = {"flags": flags, "tickets": None if self.redo else tickets}
        self.kernel.launch(arguments, given, stream)


class Kernel:
    """One kernel."""

    def __init__(self, plan: Plan) -> None:
        self.plan, s = plan, plan.schedule
        self.dtype = DTYPES[plan.half]
        self.groups = s.tile_m // 64
        self.q_stages = 2 if s.flat else 1
        # launched while the kernel before it (zeros of tickets, flags) ends, which it then awaits
        self.follows = s.redo or s.flat

    # ---- host -----------------------------------------------------------------------------------
    @cute.jit
    def launch(self, arguments: dict, given: dict, stream: cuda.CUstream):
        """TMA descriptors, grid, launch."""
        plan, s = self.plan, self.plan.schedule
        streams = self._streams()
        views = {n: canonical(arguments[x.tensor], x) for n, x in streams.items()}
        q, k, v = (views[x.name] for x in (plan.query, plan.key, plan.value))
        loads, store = cpasync.CopyBulkTensorTileG2SOp(), cpasync.CopyBulkTensorTileS2GOp()
        m, n = s.tile_m, s.tile_n
        layouts = self.layouts()
        copies = {
            "q": cpasync.make_tiled_tma_atom(loads, q, layouts["q"], (m, plan.query.width)),
            "k": cpasync.make_tiled_tma_atom(loads, k, layouts["k"], (n, plan.key.width)),
            "v": cpasync.make_tiled_tma_atom(loads, v, layouts["v"], (n, plan.value.width)),
        }
        for i, x in enumerate(plan.products):
            whole, memory = views[x.name], layouts["others"]
            copies[other(i)] = cpasync.make_tiled_tma_atom(loads, whole, memory, (m, x.width))
        for name, _ in plan.rows:
            width = plan.value.width
            one = cute.select(layouts["o"], mode=[0, 1, 2])
            copies[name] = cpasync.make_tiled_tma_atom(store, views[name], one, (64, width))
        for rider in plan.riders:
            copies[rider.name] = copy_of(rider, plan, arguments[rider.tensor])
        heads, batch = q.shape[2], q.shape[3]
        if const_expr(plan.packed):
            batch = arguments[plan.query.packed].shape[0] - 1
        elif const_expr("batch" not in plan.query.roles):
            batch = k.shape[3]
        group = heads // k.shape[2]
        grid = Grid(plan, q.shape[0], k.shape[0], heads, batch, group)
        geometry = (q.shape[0], k.shape[0], *grid.values())
        total = grid.total
        if const_expr(s.redo or s.flat):
            total = cutlass.min(total, s.processors)
        others = {name: x for name, x in arguments.items() if name not in views}
        views = {name: x for name, x in views.items() if name in self._read_in_kernel()}
        self.device.set_name_prefix(plan.name)
        self.device(
            {n: a for n, (a, _) in copies.items()},
            {n: t for n, (_, t) in copies.items()},
            views,
            others,
            given,
            geometry,
        ).launch(
            grid=(total, 1, 1),
            block=(WARPGROUP * (1 + self.groups), 1, 1),
            stream=stream,
            min_blocks_per_mp=1,
            use_pdl=self.follows,
        )

    def _streams(self) -> dict[str, Stream]:
        plan = self.plan
        streams = {x.name: x for x in (*plan.queries, plan.key, plan.value, *plan.row_streams)}
        for name, _ in plan.rows:
            roles, width = plan.result_roles, plan.value.width
            streams[name] = Stream(name, roles, width, packed=plan.query.packed)
        return streams

    def _read_in_kernel(self) -> tuple[str, ...]:
        return tuple(x.name for x in (self.plan.key, self.plan.value, *self.plan.row_streams))

    def layouts(self) -> dict:
        """Shared memory; made anew on the host and in the kernel, they are constants."""
        plan, s, dt = self.plan, self.plan.schedule, self.dtype
        made = {
            "q": swizzled(dt, s.tile_m, plan.query.width, self.q_stages),
            "k": swizzled(dt, s.tile_n, plan.key.width, s.stages),
            "v": swizzled(dt, s.tile_n, plan.value.width, s.stages),
            "o": result_layout(dt, plan.value.width, self.groups, self.q_stages),
        }
        if plan.products:
            made["others"] = swizzled(
                dt, s.tile_m, plan.query.width, len(plan.products) * self.q_stages
            )
        if plan.slope is not None:
            made["qx"] = swizzled(dt, s.tile_m, LOW_RANK)
            made["kx"] = swizzled(dt, s.tile_n, LOW_RANK)
        return made

    def products(self):
        """(Q K^T, P V) as tiled wgmmas."""
        plan, dt = self.plan, self.dtype
        make = fragments.hop.make_trivial_tiled_mma
        k_major, shape = fragments.K_MAJOR, (self.groups, 1, 1)
        return (
            make(dt, dt, k_major, k_major, Float32, shape, (64, plan.schedule.tile_n)),
            make(
                dt,
                dt,
                k_major,
                fragments.MN_MAJOR,
                Float32,
                shape,
                (64, plan.value.width),
                a_source=warpgroup.OperandSource.RMEM,
            ),
        )

    def storage(self, layouts: dict):
        """Shared memory of a block of threads."""
        dt, s = self.dtype, self.plan.schedule
        queries, results = (["q", "o"], []) if self.plan.aliased else (["q"], ["o"])
        board = Board.sizes(self.plan) if s.flat else (4, 4)

        def tile(*names: str):
            counts = [cute.cosize(layouts[n]) for n in names if n in layouts]
            room = cute.struct.MemRange[dt, max(counts, default=0)]
            return cute.struct.Align[room, 1024] if counts else room

        def rider(i: int):
            if i >= len(self.plan.riders):
                return cute.struct.MemRange[cutlass.Uint8, 0]
            room = bytes_of(self.plan.riders[i], self.plan) * s.stages
            return cute.struct.Align[cute.struct.MemRange[cutlass.Uint8, room], 1024]

        @cute.struct
        class Storage:
            bar_q: cute.struct.MemRange[cutlass.Int64, 2 * self.q_stages]
            bar_k: cute.struct.MemRange[cutlass.Int64, 2 * s.stages]
            bar_v: cute.struct.MemRange[cutlass.Int64, 2 * s.stages]
            slots: cute.struct.MemRange[cutlass.Int32, board[0]]
            starts: cute.struct.MemRange[cutlass.Int32, board[1]]
            q: tile(*queries)
            k: tile("k")
            v: tile("v")
            o: tile(*results)
            qx: tile("qx")
            kx: tile("kx")
            rider_1: rider(0)
            rider_2: rider(1)
            rider_3: rider(2)
            others: tile("others")

        found = Storage.size_in_bytes()
        if found > SHARED:  # the driver would refuse the launch with an error that names nothing
            raise ValueError(f"{self.plan.name}: {found} bytes of shared memory, {SHARED} exist")
        return Storage

    # ---- device ---------------------------------------------------------------------------------
    @cute.kernel
    def device(
        self, atoms: dict, maps: dict, views: dict, others: dict, given: dict, geometry: tuple
    ):
        """Barriers, then the roles."""
        plan, s = self.plan, self.plan.schedule
        if const_expr(self.follows):
            cute.arch.griddepcontrol_wait()
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        if warp == 0:
            for atom in atoms.values():
                cpasync.prefetch_descriptor(atom)
        layouts = self.layouts()
        storage = SmemAllocator().allocate(self.storage(layouts))
        rings = {
            "q": self._ring(storage.bar_q, self.q_stages, layouts["q"], len(plan.queries)),
            "k": self._ring(storage.bar_k, s.stages, layouts["k"], 1, plan.riders),
            "v": self._ring(storage.bar_v, s.stages, layouts["v"]),
        }
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()
        q_len, kv_len, tiles, heads, pairs, chunk = geometry
        at = At(
            {
                **others,
                **views,
                "q_len": q_len,
                "kv_len": kv_len,
                "heads": heads,
                "grid": (tiles, heads, pairs, chunk),
            }
        )
        block = cute.arch.block_idx()[0]
        memory = {
            n: getattr(storage, n).get_tensor(layouts[n].outer, swizzle=layouts[n].inner)
            for n in ("q", "k", "v", "qx", "kx", "others")
            if n in layouts
        }
        o = layouts["o"]
        place = storage.q if plan.aliased else storage.o
        memory["o"] = place.get_tensor(o.outer, swizzle=o.inner)
        for i, rider in enumerate(plan.riders):
            memory[rider.name] = memory_of(rider, plan, getattr(storage, RIDERS[i]))
        low, high = (SEARCHING if plan.runs else REGISTERS)[self.groups]
        board = Board(plan, storage) if s.flat else None
        if warp < 4:
            cute.arch.setmaxregister_decrease(low)
            if warp == 0:
                source = (FlatSource if s.flat else Source)(plan, atoms, maps, memory, rings, at)
                self._produce(source, given, board, block)
        else:
            cute.arch.setmaxregister_increase(high)
            kind = CONSUMERS[plan.several, s.redo, s.flat]
            consumer = kind(self, atoms, maps, memory, rings, at, given["flags"])
            self._consume(consumer, given, board, block)

    def _ring(self, barriers, stages: int, layout, tiles: int = 1, riders=()):
        """A ring of TMA loads: consumers give a stage back with one thread per warp."""
        group = pipeline.CooperativeGroup
        bytes_ = tiles * cute.size_in_bytes(self.dtype, cute.select(layout, mode=[0, 1]))
        bytes_ += sum(bytes_of(x, self.plan) for x in riders)
        return pipeline.PipelineTmaAsync.create(
            barrier_storage=barriers.data_ptr(),
            num_stages=stages,
            producer_group=group(pipeline.Agent.Thread, 1),
            consumer_group=group(pipeline.Agent.Thread, 4 * self.groups),
            tx_count=bytes_,
            defer_sync=True,
        )

    @cute.jit
    def _produce(self, source, given, board, block):
        kind, rings = pipeline.PipelineUserType.Producer, source.rings
        states = [
            pipeline.make_pipeline_state(kind, rings[name].num_stages) for name in ("q", "k", "v")
        ]
        s = self.plan.schedule
        flags = given["flags"] if s.redo else None
        if const_expr(s.flat):
            source.all(block, given["tickets"], flags, board, *states)
        elif const_expr(s.redo):
            source.again(block, flags, *states)
        else:
            source.tile(block, *states)

    @cute.jit
    def _consume(self, consumer, given, board, block):
        consumer.start()
        if const_expr(self.plan.schedule.flat):
            consumer.all(board, *consumer.states())
        elif const_expr(self.plan.schedule.redo):
            consumer.again(block, given["flags"], *consumer.states())
        else:
            consumer.tile(block, *consumer.states())
