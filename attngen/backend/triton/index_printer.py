"""Loop bounds (index expressions) as Triton scalars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, assert_never

from attngen.ir.index import (
    All,
    AnyOf,
    Element,
    Extreme,
    FirstGe,
    FloorDiv,
    Formula,
    Le,
    Modulo,
    Monomial,
    Opaque,
    Pick,
    Poly,
    Term,
    TileExtreme,
    Var,
    poly,
    walk,
)


class NoScalarForm(Exception):  # noqa: N818 - a way out, not a mistake
    """The bound cannot be computed from scalars of one tile; the caller widens the range."""


@dataclass
class IndexPrinter:
    """Prints polynomials over the scalars of a tile.

    variables: text of each Var in scope; address: pointer to an element (or, with the last index
    left out, to its row); element: an element as a scalar; reduce: text of a TileExtreme over the
    tile's own rows, if it is one; search: text of a search whose result is known already;
    helpers: names of helper functions called.
    """

    variables: Mapping[str, str]
    address: Callable[[str, tuple[str, ...]], str]
    element: Callable[[Element, tuple[str, ...]], str]
    reduce: Callable[[TileExtreme], str | None]
    search: Callable[[FirstGe], str | None]
    helpers: set[str] = field(default_factory=set)

    # how the language spells what is no operator
    minimum: ClassVar[str] = "tl.minimum"
    maximum: ClassVar[str] = "tl.maximum"
    where: ClassVar[str] = "tl.where"
    floor_div: ClassVar[str] = "floor_div"
    floor_mod: ClassVar[str] = "floor_mod"

    def text(self, p: Poly, tight: bool = False) -> str:
        """A sum; `tight` wraps it so that it can be a factor."""
        if not p.terms:
            return "0"
        out = ""
        for monomial, c in sorted(p.terms, key=_constants_last):
            out += (" - " if c < 0 else " + ") + self._product(monomial, abs(c))
        out = out[3:] if out[1] == "+" else "-" + out[3:]
        atom = len(p.terms) == 1 and p.terms[0][1] > 0 and len(p.terms[0][0]) < 2
        return out if atom or not tight else f"({out})"

    def _product(self, monomial: Monomial, c: int) -> str:
        parts = ([str(c)] if c != 1 or not monomial else []) + [self.term(t) for t in monomial]
        return " * ".join(parts)

    def term(self, term: Term) -> str:
        """One term, tight enough to be a factor."""
        match term:
            case Var(name=name):
                return self._variable(name)
            case Element(tensor=tensor, index=index):
                if not index:
                    return self._variable(tensor)
                return self.element(term, tuple(self.text(i, True) for i in index))
            case FloorDiv(num=num, den=den) | Modulo(num=num, den=den):
                name = self.floor_div if isinstance(term, FloorDiv) else self.floor_mod
                self.helpers.add(name)
                return f"{name}({self.text(num)}, {self.text(den)})"
            case Extreme(kind=kind, args=args):
                function = self.minimum if kind == "min" else self.maximum
                return _nest(function, [self.text(a) for a in args])
            case Pick(condition=condition, yes=yes, no=no):
                return f"{self.where}({self.formula(condition)}, {self.text(yes)}, {self.text(no)})"
            case FirstGe():
                return self._first_ge(term)
            case TileExtreme():
                return self._reduced(term)
            case _:
                assert_never(term)

    def _first_ge(self, term: FirstGe) -> str:
        known = self.search(term)
        if known is not None:
            return known
        if "q" in term.value.names:
            raise NoScalarForm(str(term))  # one search per row of the tile
        self.helpers.add("first_ge")
        lead = tuple(self.text(i, True) for i in term.row.index[:-1])
        pointer = self.address(term.row.tensor, lead)
        return f"first_ge({pointer}, {self.text(term.value)}, {self.text(term.length)})"

    def _reduced(self, term: TileExtreme) -> str:
        text = self.reduce(term)
        if text is None:
            raise NoScalarForm(str(term))
        return text

    def _variable(self, name: str) -> str:
        if name not in self.variables:
            raise NoScalarForm(name)
        return self.variables[name]

    def formula(self, f: Formula) -> str:
        """A condition on scalars."""
        match f:
            case Le(poly=p):
                left = poly({m: c for m, c in p.terms if c > 0 and m})
                return f"{self.text(left)} <= {self.text(left - p)}"
            case All(args=args):
                return " & ".join(f"({self.formula(a)})" for a in args) or "True"
            case AnyOf(args=args):
                return " | ".join(f"({self.formula(a)})" for a in args) or "False"
            case Opaque():
                raise NoScalarForm(str(f))
            case _:
                assert_never(f)


def mentions(p: Poly, name: str) -> bool:
    """Whether a variable occurs anywhere in the bound."""
    return any(isinstance(x, Var) and x.name == name for x in walk(p))


def _nest(function: str, args: list[str]) -> str:
    out = args[-1]
    for a in reversed(args[:-1]):
        out = f"{function}({a}, {out})"
    return out


def _constants_last(item: tuple[Monomial, int]) -> tuple[bool, bool]:
    return item[0] == (), item[1] < 0
