"""What a kernel will cost: products, memory traffic and visited tiles, for given lengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attngen.ir.attention import Attention, Tensor
from attngen.ir.expr import Axes, Dot, Expr
from attngen.ir.program import Program
from attngen.ir.walk import walk
from attngen.passes.counts import tile_classes
from attngen.runtime.backends import AnySchedule

LENGTH, HEADS, KEY_HEADS, BATCH = 4096, 16, 4, 1  # assumed where nothing is said
MOST_TILES = 300_000


@dataclass(frozen=True)
class Prediction:
    """sizes: every named axis; tiles, full: visited and unmasked tiles of one head, of `all_tiles`.

    flops, bytes: of the whole call; bytes: each tensor moved once. tiles is None when the bounds
    depend on the contents of tensors or on scalars; flops then count every tile.
    """

    sizes: Mapping[str, int]
    all_tiles: int
    tiles: int | None
    full: int
    flops: int
    bytes: int
    why: str = ""


def predict(program: Program, schedule: AnySchedule, given: Mapping[str, int]) -> Prediction:
    """The cost of one call."""
    attention = program.attention
    sizes = axis_sizes(attention, given)
    query, key = _first(attention, "query"), _first(attention, "key")
    q_len, kv_len = _extent(query, "position", sizes), _extent(key, "position", sizes)
    across, down = -(-kv_len // schedule.block_k), -(-q_len // schedule.block_q)
    tiles, full, why = _tiles(program, schedule, q_len, kv_len, across * down)
    visited = across * down if tiles is None else tiles
    heads = _extent(query, "batch", sizes) * _extent(query, "head", sizes)
    area = visited * schedule.block_q * schedule.block_k * heads
    return Prediction(
        sizes=sizes,
        all_tiles=across * down,
        tiles=tiles,
        full=full,
        flops=area * products_per_pair(program),
        bytes=_bytes(attention, sizes, heads * q_len),
        why=why,
    )


def products_per_pair(program: Program) -> int:
    """Operations of products per (query, key) pair: 2 D for a dot, 2 D for a weighted row."""
    plan = program.online
    scores: list[Expr] = [c.score for c in plan.classes] + [t.score for t in plan.tops]
    scores += [a.scalar for a in plan.accumulators]
    dots = [e for e in walk(*scores) if isinstance(e, Dot) and e.level == Axes.TILE]
    widths = [e.a.feature for e in dots]
    widths += [a.row.feature for a in plan.accumulators if a.row is not None]
    return sum(2 * width for width in widths if isinstance(width, int))


def axis_sizes(attention: Attention, given: Mapping[str, int]) -> dict[str, int]:
    """A size for every named axis: as given, else assumed."""
    several = len({a.name for t in attention.tensors for a in t.axes if a.role == "head"}) > 1
    sizes: dict[str, int] = {}
    for tensor in attention.tensors:
        for axis in tensor.axes:
            if axis.size is not None or not axis.name.isidentifier():
                continue
            shared = several and tensor.role in ("key", "value")
            heads = KEY_HEADS if shared else HEADS
            assumed = {"batch": BATCH, "head": heads, "position": LENGTH}.get(axis.role, 128)
            sizes.setdefault(axis.name, given.get(axis.name, assumed))
    return sizes


def _tiles(
    program: Program, schedule: AnySchedule, q_len: int, kv_len: int, every: int
) -> tuple[int | None, int, str]:
    if any(t.packed for t in program.attention.tensors):
        return None, 0, "they depend on the lengths of the packed sequences"
    if every > MOST_TILES:
        return None, 0, "there are too many to count here"
    try:
        env = {"q_len": q_len, "kv_len": kv_len, "b": 0, "h": 0, "h_kv": 0}
        classes = tile_classes(
            program.mask, env, q_len, kv_len, block_q=schedule.block_q, block_k=schedule.block_k
        )
    except (KeyError, IndexError, ValueError) as error:
        name = error.args[0] if isinstance(error, KeyError) and error.args else "the tensors"
        return None, 0, f"they depend on {name}"
    return len(classes), sum(kind == "full" for _, _, kind in classes), ""


def _bytes(attention: Attention, sizes: Mapping[str, int], rows: int) -> int:
    total = 0
    for tensor in attention.tensors:
        count = tensor.dtype.bytes
        for axis in tensor.axes:
            count *= axis.size if axis.size is not None else sizes.get(axis.name, 1)
        total += count if tensor.view is None else 0
    half = _first(attention, "query").dtype.bytes
    for _, e in attention.outputs:
        total += rows * (e.feature * half if isinstance(e.feature, int) else 4)
    return total


def _first(attention: Attention, role: str) -> Tensor:
    streams = [t for t in attention.tensors if t.is_stream]
    return next((t for t in streams if t.role == role), streams[0])


def _extent(tensor: Tensor, role: str, sizes: Mapping[str, int]) -> int:
    place = tensor.axis(role)
    if place is None:
        return 1
    axis = tensor.axes[place]
    return axis.size if axis.size is not None else sizes[axis.name]
