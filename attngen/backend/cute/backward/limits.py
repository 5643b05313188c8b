"""Bounds of the walk over queries and the mask of a key, from the transposed mask plan."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.backend.cute.backward.shape import NoShape
from attngen.backend.cute.printer import NoScalarForm, TilePrinter
from attngen.ir import index as ix
from attngen.ir.attention import Attention
from attngen.ir.index import Extreme, FloorDiv, Poly, Term, Var
from attngen.ir.program import Program

KEYS = ("k0", "k1")


@dataclass(frozen=True)
class KeyLimits:
    """Text of the hooks; None for a limit that is always there, or of a mask that has none.

    exact: limits say it all; nested: later blocks of keys meet no query that earlier ones do not.
    """

    tiles: tuple[str, str, str, str]
    first: str | None
    end: str | None
    exact: bool
    nested: bool


class KeyPrinter(TilePrinter):
    """Bounds of a tile of keys over `at`; keys: the name of one key, or None."""

    def __init__(self, attention: Attention, names: dict[str, str], key: str | None = None) -> None:
        super().__init__(attention, names)
        lengths = {n: t for n, t in self.variables.items() if n not in ("q0", "q1")}
        self.variables = lengths | {"k0": "at.col0", "k1": "at.col1"}
        if key is not None:
            self.variables["k"] = key

    def _element(self, e: ix.Element, index: tuple[str, ...]) -> str:
        if "k" in e.names:
            index = tuple("at.key(kv_idx)" if x == "kv_idx" else x for x in index)
        return f"ops.load({', '.join([f'at.{self.names[e.tensor]}', *index])})"


def limits(program: Program, names: dict[str, str]) -> KeyLimits:
    """The limits of a program. NoShape, NoScalarForm: why they cannot be printed."""
    way, mask = program.mask.transposed, program.online.mask
    if len(way.outer) > 1 or len(way.full) > 1:
        raise NoShape("masks of several ranges of queries")
    if program.mask.needs:
        raise NoShape("masks with divisors known at run time")
    printer = KeyPrinter(program.attention, names)
    outer, full = ("0", "0"), ("0", "0")
    if way.outer:
        outer = (printer.text(way.outer[0].lo), printer.text(way.outer[0].hi))
    if way.full:
        full = (printer.text(way.full[0].lo), printer.text(way.full[0].hi))
    ends = ix.var(q_len(program.attention))
    nested = bool(way.outer) and way.outer[0].hi is ends and nondecreasing(way.outer[0].lo)
    if mask is None:
        return KeyLimits((*outer, *full), None, None, True, nested)
    if len(way.row) == 1 and not way.leftovers:
        try:
            low, high = way.row[0].lo, way.row[0].hi
            own = KeyPrinter(program.attention, names, "kv_idx")
            first = None if low.constant == 0 else own.text(low)
            end = None if high is ends else own.text(high)
        except NoScalarForm:
            pass
        else:
            return KeyLimits((*outer, *full), first, end, True, nested)
    return KeyLimits((*outer, *full), None, None, False, nested)


def q_len(attention: Attention) -> str:
    """The name of the number of queries in bounds."""
    return "kv_len" if attention.same_length else "q_len"


def nondecreasing(p: Poly) -> bool:
    """Whether a bound never falls when the keys of the tile move on."""
    for monomial, c in p.terms:
        moving = [t for t in monomial if _mentions(t)]
        if moving and not (len(monomial) == 1 and c > 0 and _rises(moving[0])):
            return False
    return True


def _rises(t: Term) -> bool:
    match t:
        case Var():
            return True
        case Extreme(args=args):
            return all(nondecreasing(a) for a in args)
        case FloorDiv(num=num, den=den):
            divisor = den.constant
            return divisor is not None and divisor > 0 and nondecreasing(num)
    return False


def _mentions(t: Term) -> bool:
    return any(isinstance(x, Var) and x.name in KEYS for x in ix.walk(ix.poly({(t,): 1})))
