"""What a generated file says about its backward kernel: constants, streams, functions."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.cutelib.plan import Hook, Stream


@dataclass(frozen=True)
class BackwardSchedule:
    """How the kernel is built.

    tile_m: queries of a step; tile_n: keys of a block of threads, 64 for each of its two consumer
    warpgroups; stages: of the rings of Q, dO and dS; ordered: sums of dQ add up in the order of the
    key blocks, so that two runs give the same bits; pin: keep exponentials above the wait for dP;
    beside: heads of keys that run side by side.
    """

    tile_m: int = 64
    tile_n: int = 128
    stages: int = 2
    ordered: bool = True
    pin: bool = False
    beside: int = 16

    @property
    def groups(self) -> int:
        """Consumer warpgroups."""
        return self.tile_n // 64

    @property
    def warps(self) -> int:
        """Warps of a block of threads."""
        return 4 * (self.groups + 1)


@dataclass(frozen=True)
class BackwardPlan:
    """One backward kernel: dK = dS^T Q, dV = P^T dO, dQ = dS K.

    half, arguments: as in `cutelib.plan.Plan`; seed: rows of the queries that meet the values (the
    gradient of the sums); dq, dk, dv: sums of dQ (float32, zeros) and the gradients of the keys and
    the values, which are multiplied by dk_scale and dv_scale; numbers: arguments [batch, head,
    queries padded to tile_m] of float32 that `before` takes, `late_numbers` those that `after`
    takes; they are finite at padding, and make `before` give 0 there; sums: arguments [batch, head,
    8 * key blocks] for what `sums` adds up; turns: int32 [batch, head, query blocks], zeros, for an
    ordered schedule, or "".
    nested: a block of keys is met by every query block that meets a later one.

    Functions (trace time; `at` holds tensors, scalars and b, h, h_kv, row0, col0, col1, lengths):
    tiles(at) -> (lo, hi, full_lo, full_hi): queries visited, queries that keep every key;
    first_query(at, k), end_query(at, k): limits of one key, or None; keep(at, q, k): per element;
    column(at, k), diagonal(at, k - q); before(at, s, column, diagonal, q, k, *numbers) -> (weight,
    what `after` needs of it); after(at, kept, product, q, k, *late_numbers) -> dS;
    sums(at, ds, q, k) -> numbers; per_tile(at), per_key(at, k): values to have as attributes.
    """

    name: str
    half: str
    query: Stream
    key: Stream
    value: Stream
    seed: Stream
    dq: Stream
    dk: Stream
    dv: Stream
    arguments: tuple[tuple[str, str], ...]
    schedule: BackwardSchedule
    tiles: Hook
    before: Hook
    after: Hook
    numbers: tuple[str, ...]
    late_numbers: tuple[str, ...]
    dk_scale: float = 1.0
    dv_scale: float = 1.0
    nested: bool = False
    turns: str = ""
    sums: Hook | None = None
    sum_names: tuple[str, ...] = ()
    first_query: Hook | None = None
    end_query: Hook | None = None
    keep: Hook | None = None
    column: Hook | None = None
    diagonal: Hook | None = None
    per_tile: Hook | None = None
    per_key: Hook | None = None

    @property
    def arch(self) -> str:
        """The architecture it is for."""
        return "sm_90"

    @property
    def parts(self) -> tuple[BackwardPlan, ...]:
        """What is compiled by itself."""
        return (self,)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All tensors of rows."""
        own = (self.query, self.key, self.value, self.seed)
        return (*own, self.dq, self.dk, self.dv)

    @property
    def ring_of(self) -> dict[str, str]:
        """The ring each array of numbers rides on: "q", or "o" for what only `after` takes."""
        late = {n: "o" for n in self.late_numbers}
        return late | {n: "q" for n in self.numbers}

    @property
    def aligned(self) -> frozenset[str]:
        """Arguments whose rows begin at multiples of 16 bytes."""
        return frozenset({x.tensor for x in self.streams} | set(self.ring_of))

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block of threads, without barriers."""
        s = self.schedule
        columns = self.query.width + self.seed.width
        rows = s.tile_n * columns + s.stages * s.tile_m * columns + s.stages * s.tile_n * s.tile_m
        dq = 64 * self.query.width * (2 if s.tile_m > 64 else 1)
        return 2 * rows + 4 * (dq + s.stages * s.tile_m * len(self.ring_of))
