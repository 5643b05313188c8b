"""From ranges of keys to loops: partial tiles, full tiles, partial tiles."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.backend.triton.index_printer import IndexPrinter, NoScalarForm
from attngen.ir.index import Poly
from attngen.ir.maskplan import Direction, MaskPlan, Range


@dataclass(frozen=True)
class Loop:
    """One loop over tiles of keys, [lo, hi) in steps of the tile; partial: elements are masked."""

    lo: str
    hi: str
    partial: bool


@dataclass(frozen=True)
class Loops:
    """Loop bounds and loops of a tile.

    lines: scalars of the bounds; loops: in order; parts: number of ranges (with more than one the
    loops are inside a loop over the parts); widened: a bound had no scalar form, every tile is
    visited.
    """

    lines: tuple[str, ...]
    loops: tuple[Loop, ...]
    parts: int = 1
    widened: bool = False


def build_loops(
    plan: MaskPlan,
    printer: IndexPrinter,
    block: int,
    single: bool,
    transposed: bool = False,
    untested: Poly | None = None,
) -> Loops:
    """The loops of a query tile over keys, or of a key tile over queries (`transposed`).

    single: one loop, every tile masked; untested: the length of the loop's side, if elements past
    it need no mask.
    """
    way = plan.transposed if transposed else plan.forward
    try:
        return _build(plan, way, printer, block, single, untested)
    except NoScalarForm:
        lines = ("lo = 0", "hi = q_len" if transposed else "hi = kv_len")
        return Loops(lines, (Loop("lo", "hi", True),), widened=True)


def _build(
    plan: MaskPlan,
    way: Direction,
    printer: IndexPrinter,
    block: int,
    single: bool,
    untested: Poly | None,
) -> Loops:
    if not way.outer:
        return Loops(("lo = 0", "hi = 0"), (Loop("lo", "hi", True),))
    full = () if single else way.full
    if len(way.outer) == 1 and len(full) <= 1:
        inner = full[0] if full else None
        lines, loops = _one_range(way.outer[0], inner, printer, block, untested)
        return Loops(tuple(lines + _guard_needs(plan, printer, bool(full))), tuple(loops))
    return _several(plan, way.outer, full, printer, block)


def _one_range(
    outer: Range, full: Range | None, printer: IndexPrinter, block: int, untested: Poly | None
) -> tuple[list[str], list[Loop]]:
    lines = [f"lo = {_down(outer.lo, printer, block)}", f"hi = {printer.text(outer.hi)}"]
    if full is None:
        return lines, [Loop("lo", "hi", True)]
    from_start = _aligned(outer.lo, block) and outer.lo is full.lo
    full_lo = "lo" if from_start else f"tl.maximum({_up(full.lo, printer, block)}, lo)"
    lines.append(f"full_lo = {full_lo}")
    first = [] if from_start else [Loop("lo", "tl.minimum(full_lo, hi)", True)]
    if full.hi is untested:
        return lines, [*first, Loop("full_lo", "hi", False)]
    full_hi = f"tl.maximum({printer.text(full.hi, True)} // {block} * {block}, full_lo)"
    if untested is not None:  # it is not limited by the length
        full_hi = f"tl.minimum({full_hi}, hi)"
    lines.append(f"full_hi = {full_hi}")
    return lines, [*first, Loop("full_lo", "full_hi", False), Loop("full_hi", "hi", True)]


def _several(
    plan: MaskPlan,
    outer: tuple[Range, ...],
    full: tuple[Range, ...],
    printer: IndexPrinter,
    block: int,
) -> Loops:
    """Two or three ranges in unknown order: sort by start, cut overlaps, loop over the parts."""
    lines = []
    for i, r in enumerate(outer):
        lines.append(f"lo_{i} = {_down(r.lo, printer, block)}")
        lines.append(f"hi_{i} = tl.maximum({printer.text(r.hi)}, lo_{i})")
    for i, r in enumerate(full):
        lines.append(f"full_lo_{i} = {_up(r.lo, printer, block)}")
        lines.append(f"full_hi_{i} = {printer.text(r.hi, True)} // {block} * {block}")
    needs = _needs(plan, printer)
    if needs:
        lines.append(f"usable = {needs}")
        lines += [f"lo_{i} = tl.where(usable, lo_{i}, 0)" for i in range(len(outer))]
        lines += [f"hi_{i} = tl.where(usable, hi_{i}, kv_len)" for i in range(len(outer))]
        lines += [f"full_hi_{i} = tl.where(usable, full_hi_{i}, 0)" for i in range(len(full))]
    n = len(outer)
    for i, j in ((0, 1),) if n == 2 else ((0, 1), (1, 2), (0, 1)) if n == 3 else ():
        lines += [
            f"swap = lo_{j} < lo_{i}",
            f"lo_{i}, lo_{j} = tl.where(swap, lo_{j}, lo_{i}), tl.where(swap, lo_{i}, lo_{j})",
            f"hi_{i}, hi_{j} = tl.where(swap, hi_{j}, hi_{i}), tl.where(swap, hi_{i}, hi_{j})",
        ]
    for i in range(1, n):
        lines.append(f"lo_{i} = tl.maximum(lo_{i}, tl.cdiv(hi_{i - 1}, {block}) * {block})")
        if i + 1 < n:
            lines.append(f"hi_{i} = tl.maximum(hi_{i}, hi_{i - 1})")
    pick = [f"lo = {_chain('lo', n)}", f"hi = {_chain('hi', n)}"]
    if not full:
        return Loops((*lines, "# part", *pick), (Loop("lo", "hi", True),), n)
    pick += ["full_lo = hi", "full_hi = hi"]
    for i in range(len(full)):
        pick += [
            f"inner_lo = tl.maximum(full_lo_{i}, lo)",
            f"inner_hi = tl.minimum(full_hi_{i}, hi)",
            "longer = inner_hi - inner_lo > full_hi - full_lo",
            "full_lo = tl.where(longer, inner_lo, full_lo)",
            "full_hi = tl.where(longer, inner_hi, full_hi)",
        ]
    loops = (
        Loop("lo", "full_lo", True),
        Loop("full_lo", "full_hi", False),
        Loop("full_hi", "hi", True),
    )
    mark = ["# part"] if n > 1 else []  # with one range nothing stands inside a loop over parts
    return Loops((*lines, *mark, *pick), loops, n)


def _chain(name: str, n: int) -> str:
    out = f"{name}_{n - 1}"
    for i in reversed(range(n - 1)):
        out = f"tl.where(part == {i}, {name}_{i}, {out})"
    return out


def _needs(plan: MaskPlan, printer: IndexPrinter) -> str:
    return " & ".join(f"({printer.text(p)} >= 1)" for p in plan.needs)


def _guard_needs(plan: MaskPlan, printer: IndexPrinter, full: bool) -> list[str]:
    """Where a divisor is not positive the bounds mean nothing: every tile is visited, masked."""
    needs = _needs(plan, printer)
    if not needs:
        return []
    lines = [
        f"usable = {needs}",
        "lo = tl.where(usable, lo, 0)",
        "hi = tl.where(usable, hi, kv_len)",
    ]
    if full:
        lines += [
            "full_lo = tl.where(usable, full_lo, lo)",
            "full_hi = tl.where(usable, full_hi, lo)",
        ]
    return lines


def _aligned(p: Poly, block: int) -> bool:
    return p.constant is not None and p.constant % block == 0


def _down(p: Poly, printer: IndexPrinter, block: int) -> str:
    if p.constant is not None:
        return str(p.constant // block * block)
    return f"{printer.text(p, True)} // {block} * {block}"


def _up(p: Poly, printer: IndexPrinter, block: int) -> str:
    if p.constant is not None:
        return str(-(-p.constant // block) * block)
    return f"tl.cdiv({printer.text(p)}, {block}) * {block}"
