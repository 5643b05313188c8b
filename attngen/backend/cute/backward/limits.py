"""Bounds of the walk over queries and the mask of a key, from the transposed mask plan."""

from __future__ import annotations

from collections.abc import Mapping
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

    outer, full: ranges (low, high) of queries that are visited, that need no mask; exact: limits
    say all that the mask says; nested: later blocks of keys meet no query that earlier ones do not;
    ends: tensors of sorted elements whose runs of equal ones are looked up, and by what name.
    """

    outer: tuple[tuple[str, str], ...]
    full: tuple[tuple[str, str], ...]
    first: str | None
    end: str | None
    exact: bool
    nested: bool
    ends: Mapping[str, str]


class KeyPrinter(TilePrinter):
    """Bounds of a tile of keys over `at`; keys: the name of one key, or None."""

    def __init__(
        self,
        attention: Attention,
        names: dict[str, str],
        ends: dict[str, str],
        key: str | None = None,
    ) -> None:
        super().__init__(attention, names)
        lengths = {n: t for n, t in self.variables.items() if n not in ("q0", "q1")}
        self.variables, self.ends = lengths | {"k0": "at.col0", "k1": "at.col1"}, ends
        if key is not None:
            self.variables["k"] = key

    def _element(self, e: ix.Element, index: tuple[str, ...]) -> str:
        index = tuple("at.key(kv_idx)" if x == "kv_idx" else x for x in index)
        return f"ops.load({', '.join([f'at.{self.names[e.tensor]}', *index])})"

    def _search(self, term: ix.FirstGe) -> str | None:
        """Where the run of equal elements around a key ends: the host has looked it up."""
        lead = tuple(self.text(i, True) for i in term.row.index[:-1])
        if term.run is None or term.run[0] != "run_end":
            raise NoScalarForm(str(term))
        tensor = term.row.tensor
        name = self.ends.setdefault(tensor, f"{self.names[tensor]}_ends")
        place = self.text(term.run[1])
        place = "at.key(kv_idx)" if place == "kv_idx" else place
        return f"ops.load({', '.join([f'at.{name}', *lead, place])})"


def limits(program: Program, names: dict[str, str]) -> KeyLimits:
    """The limits of a program. NoShape, NoScalarForm: why they cannot be printed."""
    way, mask = program.mask.transposed, program.online.mask
    if program.mask.needs:
        raise NoShape("masks with divisors known at run time")
    ends: dict[str, str] = {}
    printer = KeyPrinter(program.attention, names, ends)
    outer, full = (
        tuple((printer.text(r.lo), printer.text(r.hi)) for r in ranges) or (("0", "0"),)
        for ranges in (way.outer, way.full)
    )
    last = ix.var(q_len(program.attention))
    nested = len(way.outer) == 1 and way.outer[0].hi is last and nondecreasing(way.outer[0].lo)
    if mask is None:
        return KeyLimits(outer, full, None, None, True, nested, ends)
    if len(way.row) == 1 and not way.leftovers:
        try:
            low, high = way.row[0].lo, way.row[0].hi
            own = KeyPrinter(program.attention, names, ends, "kv_idx")
            first = None if low.constant == 0 else own.text(low)
            end = None if high is last else own.text(high)
        except NoScalarForm:
            pass
        else:
            return KeyLimits(outer, full, first, end, True, nested, ends)
    return KeyLimits(outer, full, None, None, False, nested, ends)


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
