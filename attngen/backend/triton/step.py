"""The step of the loop over keys: what one tile of keys adds to the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from attngen.backend.triton.binder import Binder
from attngen.backend.triton.layout import Chunk
from attngen.backend.triton.printer import ADD, ATOM, LOG2E, MUL, OR, scale_by
from attngen.backend.triton.shape import COLUMN, TILE
from attngen.backend.triton.text import words
from attngen.ir import build
from attngen.ir.expr import Binary, Expr, Index, children
from attngen.ir.online import Accumulator, OnlinePlan, TopList, Weights
from attngen.passes.score import ScoreParts, split_score

WIDTH = 138.0  # nats: exp stays inside 2**-100 .. 2**100 around the middle of the bounds
WIDTH_F16 = 19.0  # the same for weights rounded to float16
TILE_SHAPE = "[BLOCK_Q, BLOCK_K]"  # replaced by the sizes of the schedule


@dataclass(frozen=True)
class ClassView:
    """One softmax class in the step.

    score: name of the score tile; factor: text that takes it to log2 units ("" for none); m, l, p,
    alpha: names; l is "" if no normaliser is needed; fixed: the constant subtracted instead of a
    running maximum (log2 units), or None; row_shift: what the score left out as constant in a row.
    """

    index: int
    score: str
    factor: str
    m: str
    l: str
    p: str
    alpha: str
    fixed: float | None
    row_shift: Expr | None


@dataclass(frozen=True)
class AccumulatorView:
    """One accumulator: state names per chunk, weight (text over tiles), payload tiles, rescale."""

    index: int
    names: tuple[str, ...]
    chunks: tuple[Chunk, ...]
    weight: str
    plain: bool
    payload: tuple[str, ...]
    rescale: str
    masked: bool


@dataclass(frozen=True)
class TopView:
    """A running top list: state names, the score tile, slots (a power of two)."""

    index: int
    value: str
    position: str
    score: str
    count: int
    slots: int


@dataclass
class Step:
    """Everything the step template prints."""

    classes: list[ClassView] = field(default_factory=list)
    accumulators: list[AccumulatorView] = field(default_factory=list)
    tops: list[TopView] = field(default_factory=list)
    score_tiles: tuple[str, ...] = ()
    payload_tiles: tuple[str, ...] = ()
    columns: Sequence[str] = ()
    tile_lines: Sequence[str] = ()
    mask_columns: Sequence[str] = ()
    mask_lines: Sequence[str] = ()
    keep: str = ""
    live: str = ""

    @property
    def payloads(self) -> list[str]:
        """Names of the tiles of rows that weights are multiplied with, each once."""
        return list(dict.fromkeys(name for a in self.accumulators for name in a.payload))

    @property
    def state(self) -> list[str]:
        """Names carried from step to step."""
        names = [n for a in self.accumulators for n in a.names]
        for c in self.classes:
            names += ([c.m] if c.fixed is None else []) + ([c.l] if c.l else [])
        return names + [
            n for t in self.tops for n in ((t.value, t.position) if t.count == 1 else (t.value,))
        ]


def build_step(
    binder: Binder,
    plan: OnlinePlan,
    stage: int,
    mask: Expr | str | None,
    tail: bool,
    anchor: Expr,
    half: str,
) -> Step:
    """The step of one stage.

    mask: condition of a partial tile, None if only the tail matters; tail: whether a partial tile
    must also test kv_idx < kv_len; anchor: position the linear terms of a score are measured from.
    """
    step = Step()
    classes = [(i, c) for i, c in enumerate(plan.classes) if c.stage == stage]
    accumulators = [(i, a) for i, a in enumerate(plan.accumulators) if a.stage == stage]
    tops = [(i, t) for i, t in enumerate(plan.tops) if t.stage == stage]
    parts = {i: split_score(c.score) for i, c in classes}
    printed = {i: printed_score(parts[i], c, anchor, half) for i, c in classes}
    binder.count(
        *(e for e, _ in printed.values()),
        *(a.scalar for _, a in accumulators),
        *(t.score for _, t in tops),
    )
    many = len(plan.classes) > 1
    for i, c in classes:
        step.classes.append(_class(binder, i, c, parts[i], printed[i], many, half, plan, anchor))
    for _, a in accumulators:
        binder.place(a.scalar)
    step.tops = [_top(binder, i, t) for i, t in tops]
    step.score_tiles = tuple(binder.key_tiles)
    step.accumulators = [
        view
        for i, a in accumulators
        if (view := _accumulator(binder, step, i, a, plan)) is not None
    ]
    read = {word for line in binder.sections[COLUMN] for word in words(line)}
    computed = {t for (t, _), own in binder.tiles.items() if own in read}  # `v * u`: loaded before
    step.score_tiles = tuple(t for t in binder.key_tiles if t in {*step.score_tiles, *computed})
    step.payload_tiles = tuple(t for t in binder.key_tiles if t not in step.score_tiles)
    step.columns, step.tile_lines = list(binder.sections[COLUMN]), list(binder.sections[TILE])
    place_mask(binder, step, mask, tail)
    _place_live(binder, step, plan.mask)
    return step


def _place_live(binder: Binder, step: Step, mask: Expr | None) -> None:
    """`live`: the condition on keys alone, if the mask has one.

    A key that no query keeps may hold anything: its row is put to zero before the product, where
    NaN would survive its weight of zero. (Past the end of the keys the loads give zeros.)
    """
    conditions = [c for c in conjuncts(mask) if binder.printer.frame.shape(c) == COLUMN]
    if not conditions:
        return
    before = len(binder.sections[COLUMN])
    for condition in conditions:
        for part in children(condition):
            binder.place(part, COLUMN)
    step.mask_columns = [*step.mask_columns, *binder.sections[COLUMN][before:]]
    level = ATOM if len(conditions) > 1 else OR
    step.live = " & ".join(binder.printer.text(c, level) for c in conditions)


def conjuncts(mask: Expr | None) -> list[Expr]:
    """The conditions that must all hold."""
    if isinstance(mask, Binary) and mask.op == "and":
        return [*conjuncts(mask.a), *conjuncts(mask.b)]
    return [] if mask is None else [mask]


def printed_score(parts: ScoreParts, c: Weights, anchor: Expr, half: str) -> tuple[Expr, float]:
    """What the tile computes, and the factor that then takes it to log2 units.

    Terms constant along a row are left out where the running maximum absorbs them, linear terms are
    measured from the anchor. A plain positive multiple of a dot keeps its factor apart: the maximum
    can be taken before scaling, and the factor becomes part of the exponent's multiply-add.
    """
    if bounded(c, half):
        return scale_by(c.score, LOG2E), 1.0
    columns = [
        build.mul(x.coefficient, build.mul(build.const(x.key), build.sub(Index("kv_idx"), anchor)))
        for x in parts.linear
    ]
    terms = [x for x in (*columns, parts.column, parts.rest) if x is not None]
    if parts.dot is None:
        return scale_by(build.total(terms), LOG2E), 1.0
    if not terms and isinstance(parts.scale, float) and parts.scale > 0:
        return parts.dot, parts.scale * LOG2E
    scale = build.const(parts.scale) if isinstance(parts.scale, float) else parts.scale
    product = build.mul(scale or build.ONE, parts.dot)
    return scale_by(build.total([*terms, product]), LOG2E), 1.0


def row_shift(parts: ScoreParts, anchor: Expr) -> Expr | None:
    """What the score left out: constant along a row, unseen by softmax; lse gets it back."""
    terms = []
    for x in parts.linear:
        # slope (a kv + b q) = slope a (kv - anchor) + slope (a anchor + b q)
        at = build.mul(build.const(x.query), x.position)
        terms.append(build.mul(x.coefficient, build.add(at, build.mul(build.const(x.key), anchor))))
    if parts.row is not None:
        terms.append(parts.row)
    return build.total(terms) if terms else None


def bounded(c: Weights, half: str) -> bool:
    """Whether a constant can stand in for the running maximum."""
    return c.high - c.low <= (WIDTH_F16 if half == "f16" else WIDTH)


def _class(
    binder: Binder,
    i: int,
    c: Weights,
    parts: ScoreParts,
    printed: tuple[Expr, float],
    many: bool,
    half: str,
    plan: OnlinePlan,
    anchor: Expr,
) -> ClassView:
    names = binder.names
    is_bounded = bounded(c, half)
    score, factor = printed
    binder.place(score)
    if score in binder.printer.bound and binder.printer.frame.shape(score) == TILE:
        s = binder.printer.bound[score]
    else:
        s = _score_tile(binder, score, f"s_{c.name}" if many else "score")
    suffix = f"_{c.name}" if many else ""
    has_l = any(_is_normaliser(a, i) for a in plan.accumulators)
    return ClassView(
        index=i,
        score=s,
        factor="" if factor == 1.0 else repr(factor),
        m=names.take(f"m{suffix or '_i'}"),
        l=names.take(f"l{suffix or '_i'}") if has_l else "",
        p=names.take(c.name),
        alpha=names.take(f"alpha{suffix}") if many else "alpha",
        fixed=(c.low + c.high) / 2 * LOG2E if is_bounded else None,
        row_shift=None if is_bounded else row_shift(parts, anchor),
    )


def _score_tile(binder: Binder, score: Expr, wish: str) -> str:
    """Name the score of a class; a score without a tile axis is spread over the tile."""
    frame = binder.printer.frame
    shape = frame.shape(score)
    text = binder.printer.text(score, ATOM if shape != TILE else ADD)
    if shape != TILE:
        spread = frame.spread(text, shape, TILE)
        text = f"tl.broadcast_to({spread if shape else text}, {TILE_SHAPE})"
    name = binder.names.take(wish)
    binder.sections[TILE].append(f"{name} = {text}  # log2 units")
    return name


def _is_normaliser(a: Accumulator, i: int) -> bool:
    return a.weights == ((i, 1),) and a.row is None and build.is_number(a.scalar, 1)


def _accumulator(
    binder: Binder, step: Step, i: int, a: Accumulator, plan: OnlinePlan
) -> AccumulatorView | None:
    if len(a.weights) == 1 and _is_normaliser(a, a.weights[0][0]):
        return None
    by_index = {c.index: c for c in step.classes}
    weights = [by_index[c].p for c, n in a.weights for _ in range(n)]
    alphas = [
        by_index[c].alpha for c, n in a.weights for _ in range(n) if by_index[c].fixed is None
    ]
    scalar = build.number(a.scalar)
    factors = [] if scalar == 1 and weights else [binder.printer.spread(a.scalar, TILE)]
    single = not weights and len(factors) == 1
    if factors and not single:
        text = binder.printer.text(a.scalar, MUL)
        shape = binder.printer.frame.shape(a.scalar)
        factors = [
            binder.printer.frame.spread(
                binder.printer.text(a.scalar, ATOM) if shape != TILE else text, shape, TILE
            )
        ]
    payload: list[str] = []
    chunks: tuple[Chunk, ...] = ()
    if a.row is not None:
        payload, chunks = binder.row_texts(a.row, "payload"), binder.chunks(a.row)
    names = [
        binder.names.take(a.name if len(chunks) <= 1 else f"{a.name}_{j}")
        for j in range(max(1, len(chunks)))
    ]
    return AccumulatorView(
        i,
        tuple(names),
        chunks,
        " * ".join(weights + factors),
        len(weights) == 1 and not factors,
        tuple(payload),
        " * ".join(alphas),
        not (scalar == 1 and weights),
    )


def _top(binder: Binder, i: int, t: TopList) -> TopView:
    binder.place(t.score)
    text = binder.printer.spread(t.score, TILE)
    name = binder.names.take("candidate")
    binder.sections[TILE].append(f"{name} = {text}")
    slots = 1 << (t.count - 1).bit_length()
    value = binder.names.take("best" if t.count == 1 else t.name)
    position = binder.names.take("best_idx") if t.count == 1 else ""
    return TopView(i, value, position, name, t.count, slots)


def place_mask(binder: Binder, step: Step, mask: Expr | str | None, tail: bool) -> None:
    """`keep` of a partial tile; its own loads and terms are computed only there.

    mask: row limits as text (they include the length), or the formula of the spec.
    """
    if isinstance(mask, str):
        step.keep = mask
        return
    before = {shape: len(lines) for shape, lines in binder.sections.items()}
    conditions = []
    if mask is not None:
        binder.count(mask)
        for part in children(mask):
            binder.place(part)
        conditions.append(binder.printer.spread(mask, TILE) if not tail else _wrapped(binder, mask))
    if tail:
        frame = binder.printer.frame
        conditions.append(frame.spread("(kv_idx < kv_len)", COLUMN, TILE))
    step.mask_columns = binder.sections[COLUMN][before[COLUMN] :]
    step.mask_lines = binder.sections[TILE][before[TILE] :]
    step.keep = " & ".join(conditions)


def _wrapped(binder: Binder, mask: Expr) -> str:
    shape = binder.printer.frame.shape(mask)
    return binder.printer.frame.spread(binder.printer.text(mask, ATOM), shape, TILE)
