"""The schedule of a CuTe kernel: tiles, rings and what scores are measured from. docs/adr/0010."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.target import Target

WORDS = {
    "order": ("turns", "free"),
    "reference": ("running", "lazy", "first", "fixed"),
    "form": ("tile", "flat"),
    "numerics": ("fast", "exact"),
}
NUMBERS: dict[str, Sequence[int]] = {
    "tile_m": (64, 128, 192),
    "tile_n": range(16, 257, 16),
    "stages": range(1, 9),
}
L2 = 40 << 20  # bytes: what is left of an L2 cache for keys and values
ALIGNED = 1024  # bytes: where a tile begins
REGISTERS = 208  # of a thread of 240: sums, scores and weights together
BARRIERS = 2048  # bytes of shared memory kept for barriers and small tables


@dataclass(frozen=True)
class CuteSchedule:
    """One point of the schedule space of the CuTe backend.

    tile_m: queries of a block of threads, 64 for each consumer warpgroup; tile_n: keys of a step;
    stages: of the rings of keys and values; order: warpgroups take "turns" issuing products, or are
    "free"; reference: what scores are measured from, see `cutelib.plan.Schedule`; form: "tile" (a
    block of threads for each tile) or "flat" (persistent: tiles run into each other); l2: bytes of
    keys and values of heads that run side by side (1: one head after the other).
    """

    tile_m: int = 128
    tile_n: int = 128
    stages: int = 2
    order: str = "turns"
    reference: str = "lazy"
    form: str = "tile"
    l2: int = L2
    loads: ClassVar[str] = "descriptor"  # what the runtime asks of tensors: aligned rows

    @property
    def block_q(self) -> int:
        """Queries of a tile, by the name that schedules share."""
        return self.tile_m

    @property
    def block_k(self) -> int:
        """Keys of a step."""
        return self.tile_n

    def describe(self) -> str:
        """One line for headers and `explain`."""
        return (
            f"backend=cute, tile_m={self.tile_m}, tile_n={self.tile_n}, stages={self.stages}, "
            f"order={self.order}, reference={self.reference}, form={self.form}"
        )


@dataclass(frozen=True)
class Traits:
    """What a schedule depends on.

    query, value: columns of queries and of values; bounded: the score is provably bounded; narrow:
    weights are float16, whose range is short; near: the first block a row visits holds keys it
    keeps, so that its maximum there is a good reference; local: rows keep few of the keys;
    searched: bounds of a tile are searched for (documents); pairs, keys: bytes of each pair, of
    each key that are loaded beside the keys; bare: no mask, and the score is a multiple of the
    product; sloped: a term grows along the keys, for which the product has sixteen more columns;
    products: rows of queries multiplied with the keys; sums: of rows of values; several: weights
    are multiplied with numbers of a pair before they are summed; kept: with the score's product
    among them; large: these numbers may be large; packed: sequences lie back to back.
    """

    query: int
    value: int
    bounded: bool
    narrow: bool
    near: bool
    local: bool
    searched: bool
    pairs: int = 0
    keys: int = 0
    bare: bool = False
    sloped: bool = False
    products: int = 1
    sums: int = 1
    several: bool = False
    kept: bool = False
    large: bool = False
    packed: bool = False


def choose_cute(
    traits: Traits, target: Target, options: Mapping[str, str | int | bool] | None = None
) -> CuteSchedule:
    """A good point for these traits. SpecError E302, E303: an unknown option or value."""
    fixed = dict(options or {})
    chosen = _override(_start(traits, fixed), fixed)
    if chosen.reference == "fixed" and not traits.bounded:
        message = "reference = fixed needs a score that is provably bounded"
        raise SpecError(Diagnostic("E303", message, help="reference = lazy"))
    if traits.searched or traits.packed:
        chosen = replace(chosen, form="flat")  # only there bounds are found ahead
    columns = (traits.query, traits.value, traits.pairs, traits.keys, traits.products)
    if (
        "stages" not in fixed
        and chosen.stages > 2
        and shared(chosen, *columns) > target.shared_memory
    ):
        chosen = replace(chosen, stages=2)  # wide tiles are worth more
    while chosen.tile_n > 16 and shared(chosen, *columns) > target.shared_memory:
        chosen = replace(chosen, tile_n=chosen.tile_n - 16)
    return chosen


def _start(traits: Traits, options: Mapping[str, Any]) -> CuteSchedule:
    """The point without the options that name one."""
    start = _tile_of_sums(traits) if traits.several else _tile(traits.query, traits.value)
    alone = not traits.several and not traits.packed
    if traits.bare and alone and traits.query == traits.value == 128:
        # three warpgroups of 160 registers each have room for little else: 5 to 10% faster then
        start = CuteSchedule(192, 80, 2, order="free", form="flat")
    start = replace(start, reference=_reference(traits, options.get("numerics", "fast")))
    small = max(traits.query, traits.value) <= 64 and not traits.several
    # tiles that run into each other were not seen on a GPU where results have other widths
    local = traits.local and traits.query == traits.value
    if local or traits.searched or traits.packed or small:
        start = replace(start, form="flat", stages=3 if small else 2)
        if (
            small and traits.sloped
        ):  # 160 registers have no room for a slope beside two tiles' state
            start = replace(start, tile_m=128)
    # with l2 = 1 neighbouring tiles of one head run side by side, which read the same keys
    return replace(start, l2=1) if traits.local or traits.packed else start


def _tile(query: int, value: int) -> CuteSchedule:
    """Tiles whose sums and scores fill the registers, measured on an H200."""
    if max(query, value) <= 64:
        return CuteSchedule(192, 128, 2)
    if max(query, value) <= 128:
        return CuteSchedule(128, 128, 2)
    return CuteSchedule(128, 112 if value <= 128 else 80, 2)


def _tile_of_sums(traits: Traits) -> CuteSchedule:
    """Scores and products of payloads beside the sums, for two warpgroups.

    In registers together: sums, and weights (with the score's products, where they are kept)
    beside either the operands of the sums of the block before, or the products of payloads and the
    operands of the sums that need none.
    """
    sums, others = traits.sums / 2, traits.products - 1
    beside = max(sums, others + sums - 1 / 2) if others else sums
    left = REGISTERS - traits.sums * traits.value / 2
    columns = min(int(2 * left / (1 + traits.kept + beside)) // 16 * 16, 128)
    return CuteSchedule(128, columns, 3 if columns <= 64 else 2)


def _reference(traits: Traits, numerics: Any) -> str:
    if numerics == "exact" or (traits.narrow and traits.large):
        return "running"  # weights of 1 at most leave their numbers the range of float16
    if traits.bounded:
        return "fixed"
    return "first" if traits.near and not traits.narrow else "lazy"


def aliased(query: int, value: int, flat: bool) -> bool:
    """Whether results can take the memory of the queries: a row has the same place in both."""
    return query == value or (query % 64 == 0 and value % 64 == 0 and not flat)


def shared(
    s: CuteSchedule, query: int, value: int, pairs: int = 0, keys: int = 0, products: int = 1
) -> int:
    """Bytes of shared memory; pairs, keys, products: see `Traits`."""
    flat = s.form == "flat"
    columns = max(query, value) if aliased(query, value, flat) else query + value
    columns += (products - 1) * query
    queries = s.tile_m * columns * (2 if flat else 1)
    beside = s.stages * s.tile_n * (s.tile_m * pairs + keys)
    whole = -(-beside // ALIGNED) * ALIGNED
    return 2 * (queries + s.stages * s.tile_n * (query + value)) + whole + BARRIERS


def _override(schedule: CuteSchedule, options: Mapping[str, Any]) -> CuteSchedule:
    changes: dict[str, Any] = {}
    for name, value in options.items():
        if name in ("backend", "gradients"):
            continue
        if (problem := _problem(name, value)) is not None:
            raise SpecError(problem)
        if name != "numerics":
            changes[name] = value
    return replace(schedule, **changes)


def _problem(name: str, value: Any) -> Diagnostic | None:
    legal: Sequence[Any] | None = WORDS.get(name) or NUMBERS.get(name)
    if legal is None:
        message = f"a CuTe kernel has no option `{name}`; it has {', '.join((*NUMBERS, *WORDS))}"
        return Diagnostic("E302", message, help="tile_n = 128")
    if value in legal and not isinstance(value, bool):
        return None
    message = f"{name} must be one of {', '.join(map(str, legal))}, found {value!r}"
    return Diagnostic("E303", message, help=f"{name} = {legal[0]}")


def near(start: CuteSchedule) -> Iterator[CuteSchedule]:
    """The points worth measuring beside a good one, that one first."""
    yield start
    for keys, stages, order in itertools.product((0, -32, -16, 16), (2, 3), WORDS["order"]):
        point = replace(start, tile_n=start.tile_n + keys, stages=stages, order=order)
        if point != start:
            yield point
