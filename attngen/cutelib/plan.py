"""What a generated file says about its kernel: constants, streams and the functions of the spec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

Hook = Callable[..., Any]


@dataclass(frozen=True)
class Stream:
    """A tensor of rows.

    roles: of its axes in memory order: "batch", "head", "position", "feature" (the last one,
    stride 1); width: columns read, from column `start` on; of: the tensor it is a view of, or "".
    own_head: its head axis is the query's own; else a head serves a group of query heads; packed:
    sequences lie back to back along its positions, their boundaries in this argument.
    """

    name: str
    roles: tuple[str, ...]
    width: int
    start: int = 0
    of: str = ""
    own_head: bool = True
    packed: str = ""

    @property
    def tensor(self) -> str:
        """The argument that holds it."""
        return self.of or self.name


@dataclass(frozen=True)
class Schedule:
    """How the kernel is built.

    tile_m: queries of a tile, 64 for each consumer warpgroup; tile_n: keys of a step;
    stages: of the rings of K and V; turns: the warpgroups take turns issuing products;
    reference: what scores are measured from: "running" maximum, "lazy" (a maximum that follows only
    when it grew by 2**8), "first" (the maximum of the first block, checked at the end) or "fixed"
    (a constant: scores are bounded); flat: persistent, tiles run into each other, and the bounds of
    a tile are found one tile ahead; pin: keep the exponentials above the wait for the product;
    l2: bytes of keys and values that heads worked on side by side may have; processors: of the GPU;
    arch: "sm_90", or "sm_100", where tile_m is 256 and order, form and pin have no meaning;
    redo: only flagged tiles are worked on, see `redo.py`.
    """

    tile_m: int = 128
    tile_n: int = 128
    stages: int = 2
    turns: bool = True
    reference: str = "lazy"
    flat: bool = False
    pin: bool = True
    l2: int = 40 << 20
    processors: int = 132
    arch: str = "sm_90"
    redo: bool = False

    @property
    def groups(self) -> int:
        """Consumer warpgroups of sm_90."""
        return self.tile_m // 64

    @property
    def warps(self) -> int:
        """Warps of a block of threads."""
        return 16 if self.arch == "sm_100" else 4 * (self.groups + 1)


@dataclass(frozen=True)
class Rider:
    """A tensor that scores read at (query, key), or at the key alone: loaded beside the keys.

    name: the attribute of `at` that has its value; roles: of its axes in memory order: "batch",
    "head", "kv_head", "query", "key" (the last one, stride 1); dtype: "f32", or of pairs "bf16" or
    "f16".
    """

    name: str
    tensor: str
    roles: tuple[str, ...]
    dtype: str

    @property
    def pairs(self) -> bool:
        """Whether it has an element for each pair."""
        return "query" in self.roles

    @property
    def tile_roles(self) -> tuple[str, ...]:
        """Axes of a tile."""
        return ("query", "key") if self.pairs else ("key",)


@dataclass(frozen=True)
class Plan:
    """One forward kernel.

    half: "bf16" or "f16"; arguments: (name, kind) of everything the host passes, in order: kind
    "<dtype> <rank> <width>" (width: size of the last axis, 0 if known at run time), "i32" or "f32";
    rows: results with a feature axis, each with its function; numbers: results that are one number
    per row; result_roles: axes of the results; scale: takes a score register to log2 units; near:
    the diagonal term is the same for all distances <= near[0], and for all >= near[1]; fixed: the
    reference of "fixed", log2 units.

    Several sums of one softmax: products: further rows of queries, multiplied with the same keys;
    payloads(at, s, others, q, k): the numbers that weights are multiplied with, from the products
    of a pair (s, and one of each of `products`) in natural units; reads_score: they read s; sums:
    for each sum of rows of values, totals: for each sum of numbers: 0 for the weights themselves,
    i for weights times payload i - 1.

    Functions (called when the kernel is traced; `at` holds tensors, scalars and the tile's b, h,
    row0, row1, lengths): tiles(at) -> (lo, hi, full_lo, full_hi): keys visited, keys every query of
    the tile keeps; first_key(at, q), end_key(at, q): limits of one row, or None; keep(at, q, k): of
    a pair; slope(at): log2 units per key; column(at, k); diagonal(at, q, k), a function of
    distance(at, q, k); score(at, s, column, diagonal, q, k): log2 units over `scale`;
    finish(at, q, m, l, *totals) -> (values for the rows, numbers stored), a row's function(at,
    values, *sums, *row_streams) -> an element; per_tile(at), per_row(at, q):
    values to have as attributes of `at`; runs: sorted rows whose runs of equal elements the mask
    follows (`at.<name>` is then a `runs.Run`; the form must be flat, as for packed sequences);
    riders: what scores read that is loaded with the keys.
    """

    name: str
    half: str
    query: Stream
    key: Stream
    value: Stream
    arguments: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, Hook], ...]
    schedule: Schedule
    tiles: Hook
    finish: Hook
    scale: float = 1.0
    near: tuple[int, int] | None = None
    fixed: float = 0.0
    first_key: Hook | None = None
    end_key: Hook | None = None
    keep: Hook | None = None
    slope: Hook | None = None
    column: Hook | None = None
    diagonal: Hook | None = None
    distance: Hook | None = None
    score: Hook | None = None
    row_streams: tuple[Stream, ...] = field(default=())
    numbers: tuple[str, ...] = ()
    result_roles: tuple[str, ...] = ("batch", "head", "position", "feature")
    runs: tuple[tuple[str, Hook], ...] = ()
    per_tile: Hook | None = None
    per_row: Hook | None = None
    riders: tuple[Rider, ...] = ()
    products: tuple[Stream, ...] = ()
    payloads: Hook | None = None
    reads_score: bool = False
    sums: tuple[int, ...] = (0,)
    totals: tuple[int, ...] = ()

    @property
    def queries(self) -> tuple[Stream, ...]:
        """Rows of queries, those of the score first."""
        return (self.query, *self.products)

    @property
    def several(self) -> bool:
        """Whether there is more to sum than weights and weights times values."""
        return self.payloads is not None

    @property
    def packed(self) -> bool:
        """Whether sequences lie back to back: tiles are slots, some of them empty."""
        return bool(self.query.packed)

    @property
    def aliased(self) -> bool:
        """Whether results take the memory of the queries: a row has the same place in both."""
        query, value = self.query.width, self.value.width
        wide = query % 64 == 0 and value % 64 == 0 and not self.schedule.flat
        return query == value or wide

    @property
    def arch(self) -> str:
        """The architecture it is for."""
        return self.schedule.arch

    @property
    def parts(self) -> tuple[Plan, ...]:
        """What is compiled by itself: the kernel, and the one that redoes tiles it flags."""
        s = self.schedule
        if s.reference != "first" or s.redo:
            return (self,)
        again = replace(s, reference="running", redo=True)
        return self, replace(self, name=f"{self.name}_again", schedule=again)

    @property
    def number_roles(self) -> tuple[str, ...]:
        """Axes of the results that are numbers."""
        return self.result_roles[:-1]

    @property
    def aligned(self) -> frozenset[str]:
        """Arguments whose rows begin at multiples of 16 bytes."""
        return frozenset(
            {x.tensor for x in (*self.queries, self.key, self.value, *self.row_streams)}
            | {n for n, _ in self.rows}
            | {x.tensor for x in self.riders}
        )
