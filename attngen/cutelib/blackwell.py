"""The forward kernel for sm_100a: host side and the split of roles. Compiled, never run.

The roles and the places in tensor memory are FlashAttention-4's: two tiles of 128 queries, a
softmax warpgroup for each (a thread owns a row), a warpgroup that corrects and stores the sums, one
warp that issues products, one that loads. The functions of the spec are the ones Hopper's kernel
uses.
"""

import cuda.bindings.driver as cuda
import cutlass
import cutlass.utils.blackwell_helpers as sm100
from cutlass import Float32, Int32, const_expr, cute
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, tcgen05
from cutlass.memory import SmemAllocator

from attngen.cutelib.blackwell_feed import Feed, Loader
from attngen.cutelib.blackwell_rows import Corrector, Softmax
from attngen.cutelib.order import Grid, blocks_of
from attngen.cutelib.plan import Plan, Stream
from attngen.cutelib.producer import tile_at
from attngen.cutelib.tile import At
from attngen.cutelib.views import canonical

DTYPES = {"bf16": cutlass.BFloat16, "f16": cutlass.Float16}
ROWS = 128  # queries of one tile: the lanes of tensor memory
THREADS = 512
READ = 1  # named barrier: the last reader of tensor memory has read it; 0 is sync_threads
ISSUES, LOADS, CORRECTS = 12, 13, 8  # first warps of the roles; below: two softmax warpgroups
SCORES, SUMS = (0, 128), (256, 384)  # columns of tensor memory, by tile
# A weight takes half a column: those of columns 0..c fit over scores 0..c/2, which have been read
# by then, so that a row is turned from scores to weights in place, part by part.
WEIGHTS = SCORES
REGISTERS = {"softmax": 192, "correct": 88, "other": 40}  # 512 for a warp of each role


class Launch:
    """The host side of one plan: `launch(arguments, stream)` inside a `cute.jit` function."""

    def __init__(self, plan: Plan) -> None:
        self.kernel = Kernel(plan)

    def __call__(self, arguments: dict, stream) -> None:
        """Launch the kernel."""
        self.kernel.launch(arguments, stream)


class Kernel:
    """One kernel."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.dtype = plan, DTYPES[plan.half]
        self.stages = plan.schedule.stages

    # ---- host -----------------------------------------------------------------------------------
    @cute.jit
    def launch(self, arguments: dict, stream: cuda.CUstream):
        """TMA descriptors, grid, launch."""
        plan = self.plan
        streams = self._streams()
        views = {n: canonical(arguments[x.tensor], x) for n, x in streams.items()}
        q, k, v = (views[x.name] for x in (plan.query, plan.key, plan.value))
        turned = cute.make_tensor(v.iterator, cute.select(v.layout, mode=[1, 0, 2, 3]))
        qk, pv = self.products()
        layouts = self.layouts(qk, pv)
        cluster = cute.tiled_divide(cute.make_layout((1, 1, 1)), (qk.thr_id.shape,)).shape
        load = cpasync.CopyBulkTensorTileG2SOp(tcgen05.CtaGroup.ONE)
        a, b = cute.nvgpu.make_tiled_tma_atom_A, cute.nvgpu.make_tiled_tma_atom_B
        n = plan.schedule.tile_n
        wide, tall = (ROWS, n, plan.query.width), (ROWS, plan.value.width, n)
        copies = {
            "q": a(load, q, _one(layouts["q"]), wide, qk, cluster),
            "k": b(load, k, _one(layouts["k"]), wide, qk, cluster),
            "v": b(load, turned, _one(layouts["v"]), tall, pv, cluster),
        }
        heads, batch = q.shape[2], q.shape[3]
        if const_expr("batch" not in plan.query.roles):
            batch = k.shape[3]
        grid = Grid(plan, q.shape[0], k.shape[0], heads, batch, heads // k.shape[2])
        geometry = (q.shape[0], k.shape[0], *grid.values())
        others = {name: x for name, x in arguments.items() if name not in views}
        read = (plan.key, plan.value, *plan.row_streams)
        kept = {x.name: views[x.name] for x in read} | {n: views[n] for n, _ in plan.rows}
        self.device.set_name_prefix(plan.name)
        self.device(
            {n: x for n, (x, _) in copies.items()},
            {n: x for n, (_, x) in copies.items()},
            kept,
            others,
            geometry,
        ).launch(grid=(grid.total, 1, 1), block=(THREADS, 1, 1), stream=stream, min_blocks_per_mp=1)

    def _streams(self) -> dict[str, Stream]:
        plan = self.plan
        streams = {x.name: x for x in (plan.query, plan.key, plan.value, *plan.row_streams)}
        for name, _ in plan.rows:
            streams[name] = Stream(name, plan.result_roles, plan.value.width)
        return streams

    def products(self):
        """(Q K^T, P V) as tiled tcgen05 products; P comes from tensor memory."""
        dt, one, plan = self.dtype, tcgen05.CtaGroup.ONE, self.plan
        k_major, mn_major = OperandMajorMode.K, OperandMajorMode.MN
        make = sm100.make_trivial_tiled_mma
        scores, sums = (ROWS, plan.schedule.tile_n), (ROWS, plan.value.width)
        return (
            make(dt, dt, k_major, k_major, Float32, one, scores),
            make(dt, dt, k_major, mn_major, Float32, one, sums, tcgen05.OperandSource.TMEM),
        )

    def layouts(self, qk, pv) -> dict:
        """Shared memory, and the weights as an operand in tensor memory."""
        plan, dt, n = self.plan, self.dtype, self.plan.schedule.tile_n
        wide, tall = (ROWS, n, plan.query.width), (ROWS, plan.value.width, n)
        return {
            "q": sm100.make_smem_layout_a(qk, wide, dt, 2),
            "k": sm100.make_smem_layout_b(qk, wide, dt, self.stages),
            "v": sm100.make_smem_layout_b(pv, tall, dt, self.stages),
            "p": sm100.make_smem_layout_a(pv, tall, dt, 1),
        }

    def barriers(self) -> dict[str, tuple[int, int]]:
        """Name -> (number, arrivals that complete one)."""
        weights = ROWS if self.plan.schedule.reference == "fixed" else 2 * ROWS
        rings = {f"{x}_{y}": (self.stages, 1) for x in "kv" for y in ("full", "empty")}
        return {
            **rings,
            "q_full": (2, 1),
            "s_full": (2, 1),
            "p_full": (2, weights),
            "o_full": (2, 1),
            "c_full": (2, ROWS),
            "c_empty": (2, ROWS),
        }

    def storage(self, layouts: dict):
        """Shared memory of a block of threads."""
        dt, count = self.dtype, sum(n for n, _ in self.barriers().values())

        def tile(name: str):
            return cute.struct.Align[cute.struct.MemRange[dt, cute.cosize(layouts[name])], 1024]

        @cute.struct
        class Storage:
            bars: cute.struct.MemRange[cutlass.Int64, count]
            tensor_memory: Int32
            numbers: cute.struct.MemRange[Float32, 4 * ROWS]
            q: tile("q")
            k: tile("k")
            v: tile("v")

        return Storage

    # ---- device ---------------------------------------------------------------------------------
    @cute.kernel
    def device(self, atoms: dict, maps: dict, views: dict, others: dict, geometry: tuple):
        """Barriers and tensor memory, then the roles."""
        plan = self.plan
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        qk, pv = self.products()
        layouts = self.layouts(qk, pv)
        storage = SmemAllocator().allocate(self.storage(layouts))
        bars = self._prepare(storage, atoms, warp)
        tmem = cute.arch.retrieve_tmem_ptr(
            Float32, alignment=16, ptr_to_buffer_holding_addr=storage.tensor_memory.ptr
        )
        memory = {
            n: getattr(storage, n).get_tensor(layouts[n].outer, swizzle=layouts[n].inner)
            for n in ("q", "k", "v")
        }
        numbers = storage.numbers.get_tensor(cute.make_layout((ROWS, 2, 2)))
        places = self._tensor_memory(tmem, qk, pv, layouts)
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
        block, head, batch, at = tile_at(plan, at, cute.arch.block_idx()[0])
        bounds = blocks_of(plan, at)
        if warp >= ISSUES:
            cute.arch.setmaxregister_decrease(REGISTERS["other"])
            if warp == LOADS:
                Loader(plan, atoms, maps, memory, bars, (qk, pv)).run(
                    at, block, head, batch, bounds
                )
            if warp == ISSUES:
                Feed(plan, memory, places, bars, (qk, pv)).run(bounds)
                cute.arch.barrier(barrier_id=READ, number_of_threads=ROWS + 32)
                cute.arch.relinquish_tmem_alloc_permit()
                cute.arch.dealloc_tmem(tmem, 512)
        elif warp >= CORRECTS:
            cute.arch.setmaxregister_decrease(REGISTERS["correct"])
            Corrector(plan, places, numbers, bars, self.dtype).run(at, block, bounds)
            cute.arch.barrier_arrive(barrier_id=READ, number_of_threads=ROWS + 32)
        else:
            cute.arch.setmaxregister_increase(REGISTERS["softmax"])
            if warp < 4:
                Softmax(plan, 0, places, numbers, bars, self.dtype).run(at, bounds)
            else:
                Softmax(plan, 1, places, numbers, bars, self.dtype).run(at, bounds)

    @cute.jit
    def _prepare(self, storage, atoms, warp):
        """Barriers by name, initialised; tensor memory is allocated."""
        bars, first = {}, storage.bars.data_ptr()
        for name, (number, _) in self.barriers().items():
            bars[name] = first
            first = first + number
        if warp == 0:
            with cute.arch.elect_one():
                for name, (number, arrivals) in self.barriers().items():
                    for i in range(number):
                        cute.arch.mbarrier_init(bars[name] + i, arrivals)
            cute.arch.mbarrier_init_fence()
        if warp == LOADS:
            for atom in atoms.values():
                cpasync.prefetch_descriptor(atom)
        if warp == ISSUES:
            cute.arch.alloc_tmem(512, storage.tensor_memory.ptr)
        cute.arch.sync_threads()
        return bars

    def _tensor_memory(self, tmem, qk, pv, layouts) -> dict:
        """Scores, sums and weights of both tiles; a tile's weights overlay its scores."""
        plan, dt = self.plan, self.dtype
        scores = qk.make_fragment_C(qk.partition_shape_C((ROWS, plan.schedule.tile_n))).layout
        sums = pv.make_fragment_C(pv.partition_shape_C((ROWS, plan.value.width))).layout
        operand = pv.make_fragment_A(cute.make_tensor(tmem, layouts["p"].outer))
        operand = operand[None, None, None, 0].layout
        return {
            "s": [cute.make_tensor(tmem + c, scores) for c in SCORES],
            "o": [cute.make_tensor(tmem + c, sums) for c in SUMS],
            "p": [cute.make_tensor(cute.recast_ptr(tmem + c, dtype=dt), operand) for c in WEIGHTS],
            "words": [tmem + c for c in WEIGHTS],
        }


def _one(layout):
    """The layout of one stage."""
    return cute.select(layout, mode=[0, 1, 2])
