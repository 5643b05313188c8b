"""Index expressions: integer polynomials over a few terms, and formulas made of `p <= 0`.

Masks and loop bounds live here, apart from the value expressions of `attngen.ir.expr`: all is exact
integers, differences are canonical (`doc[q] - doc[k]` cancels), and there is no `not` node, because
`not p <= 0` is `1 - p <= 0`. Equal expressions are one object, so `==` is `is`. Make them with
`attngen.ir.index_build`; `str()` is the Python expression with the same value (floor division).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias
from weakref import WeakValueDictionary

from attngen.ir.expr import Axes, Binary, Cast, Const, Expr, Index, Load, Unary, Where

Kind: TypeAlias = Literal["min", "max"]


class _Interned(type):
    """Makes equal nodes one object."""

    _table: ClassVar[WeakValueDictionary[tuple[Any, ...], Any]] = WeakValueDictionary()

    def __call__(cls, *args: Any, **named: Any) -> Any:
        made = super().__call__(*args, **named)
        key = (cls, *(getattr(made, field.name) for field in fields(made)))
        return _Interned._table.setdefault(key, made)


class IndexNode(metaclass=_Interned):
    """What every node shares; text and variable names are computed once."""

    def _spell(self) -> str:
        raise NotImplementedError

    @cached_property
    def text(self) -> str:
        """The node as a Python expression."""
        return self._spell()

    @cached_property
    def names(self) -> frozenset[str]:
        """Variables the node depends on (`q`, `k0`, `window`, ...)."""
        own: frozenset[str] = frozenset()
        return own.union(*(child.names for child in children(self)))

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


Monomial: TypeAlias = "tuple[Term, ...]"


@dataclass(frozen=True, eq=False, repr=False)
class Poly(IndexNode):
    """Sum of coefficient * product of terms; sorted, no zero coefficient."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Poly | int) -> Poly:
        return _sum((self, 1), (as_poly(other), 1))

    def __sub__(self, other: Poly | int) -> Poly:
        return _sum((self, 1), (as_poly(other), -1))

    def __rsub__(self, other: int) -> Poly:
        return as_poly(other) - self

    def __neg__(self) -> Poly:
        return _sum((self, -1))

    def __mul__(self, other: Poly | int) -> Poly:
        out: dict[Monomial, int] = {}
        for left, c in self.terms:
            for right, d in as_poly(other).terms:
                product = tuple(sorted(left + right, key=str))
                out[product] = out.get(product, 0) + c * d
        return poly(out)

    __radd__ = __add__
    __rmul__ = __mul__

    def coefficient(self, monomial: Monomial) -> int:
        """The factor in front of a product of terms; () asks for the constant."""
        return next((c for m, c in self.terms if m == monomial), 0)

    @cached_property
    def constant(self) -> int | None:
        """The value, when no term is left."""
        return self.coefficient(()) if all(m == () for m, _ in self.terms) else None

    @cached_property
    def term(self) -> Term | None:
        """The term, when the polynomial is just that."""
        if len(self.terms) != 1 or self.terms[0][1] != 1 or len(self.terms[0][0]) != 1:
            return None
        return self.terms[0][0][0]

    def _spell(self) -> str:
        text = ""
        for monomial, c in sorted(self.terms, key=lambda t: (t[0] == (), t[1] < 0)):
            factor = [] if abs(c) == 1 and monomial else [str(abs(c))]
            text += (" - " if c < 0 else " + ") + " * ".join([*factor, *map(str, monomial)])
        text = text or " + 0"
        return text[3:] if text[1] == "+" else "-" + text[3:]


@dataclass(frozen=True, eq=False, repr=False)
class Var(IndexNode):
    """A variable: q k q0 q1 k0 k1 q_len kv_len b h h_kv, or a run-time scalar of the spec."""

    name: str

    @cached_property
    def names(self) -> frozenset[str]:
        """Itself."""
        return frozenset((self.name,))

    def _spell(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False, repr=False)
class Element(IndexNode):
    """tensor[index]; no index: a run-time flag.

    length: the row (all along the last axis) never decreases over [0, length); None: nothing known.
    bits: the element is 0 or 1 (a bool tensor).
    """

    tensor: str
    index: tuple[Poly, ...]
    length: Poly | None = None
    bits: bool = False

    @property
    def sorted(self) -> bool:
        """Whether the row never decreases."""
        return self.length is not None

    def _spell(self) -> str:
        return f"{self.tensor}[{', '.join(map(str, self.index))}]" if self.index else self.tensor

    @property
    def row(self) -> str:
        """The row the element lies in, as text: `doc[b]`."""
        lead = ", ".join(map(str, self.index[:-1]))
        return f"{self.tensor}[{lead}]" if lead else self.tensor


@dataclass(frozen=True, eq=False, repr=False)
class FloorDiv(IndexNode):
    """num // den, rounded down."""

    num: Poly
    den: Poly

    def _spell(self) -> str:
        return f"({_tight(self.num)} // {_tight(self.den)})"


@dataclass(frozen=True, eq=False, repr=False)
class Modulo(IndexNode):
    """num % den, with the sign of den."""

    num: Poly
    den: Poly

    def _spell(self) -> str:
        return f"({_tight(self.num)} % {_tight(self.den)})"


@dataclass(frozen=True, eq=False, repr=False)
class Extreme(IndexNode):
    """Least or greatest of two or more."""

    kind: Kind
    args: tuple[Poly, ...]

    def _spell(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.args))})"


@dataclass(frozen=True, eq=False, repr=False)
class Pick(IndexNode):
    """yes where the condition holds, else no."""

    condition: Formula
    yes: Poly
    no: Poly

    def _spell(self) -> str:
        return f"({self.yes} if {self.condition} else {self.no})"


@dataclass(frozen=True, eq=False, repr=False)
class FirstGe(IndexNode):
    """First position of a sorted row whose element is >= value; `length` if there is none.

    row: any element of the row; its last index is ignored.
    """

    row: Element
    value: Poly
    length: Poly

    @cached_property
    def run(self) -> tuple[Literal["run_start", "run_end"], Poly] | None:
        """The run of equal elements around a position that this begins or ends, if it does."""
        names: tuple[Literal["run_start", "run_end"], ...] = ("run_start", "run_end")
        for shift, name in enumerate(names):
            found = (self.value - shift).term
            if isinstance(found, Element) and found.row == self.row.row:
                return name, found.index[-1]
        return None

    def _spell(self) -> str:
        name, argument = self.run or ("first_ge", self.value)
        return f"{name}({self.row.row}, {argument})"


@dataclass(frozen=True, eq=False, repr=False)
class TileExtreme(IndexNode):
    """Least or greatest element of a row over [lo, hi], both included.

    row: any element of the row; its last index is ignored.
    """

    kind: Kind
    row: Element
    lo: Poly
    hi: Poly

    def _spell(self) -> str:
        return f"tile_{self.kind}({self.row.row}, {self.lo}, {self.hi + 1})"


@dataclass(frozen=True, eq=False, repr=False)
class Le(IndexNode):
    """poly <= 0."""

    poly: Poly

    def _spell(self) -> str:
        flags = [m[0] for m, _ in self.poly.terms if len(m) == 1]
        if len(flags) == 1 and isinstance(flag := flags[0], Element) and flag.bits:
            if self.poly == of(flag):
                return f"not {flag}"
            if self.poly == 1 - of(flag):
                return str(flag)
        if isinstance(self.poly.term, Modulo):
            return f"{self.poly} == 0"  # a remainder is never less
        left, constant = _positive_part(self.poly), self.poly.coefficient(())
        if constant == 1:
            return f"{left} < {left - self.poly + 1}"
        if not left.terms and constant > 0:
            left = number(constant)
        return f"{left} <= {left - self.poly}"


@dataclass(frozen=True, eq=False, repr=False)
class All(IndexNode):
    """Every one holds; none: true."""

    args: tuple[Formula, ...]

    def _spell(self) -> str:
        return f"({' and '.join(_equalities(self.args))})" if self.args else "True"


@dataclass(frozen=True, eq=False, repr=False)
class AnyOf(IndexNode):
    """At least one holds; none: false."""

    args: tuple[Formula, ...]

    def _spell(self) -> str:
        return f"({' or '.join(map(str, self.args))})" if self.args else "False"


@dataclass(frozen=True, eq=False, repr=False)
class Opaque(IndexNode):
    """A condition nobody reasons about (floats, NaN and all): `expr`, or its opposite."""

    expr: Expr
    negated: bool = False

    @cached_property
    def names(self) -> frozenset[str]:
        """The variables q and k where the expression varies along them."""
        axes = {"q": Axes.QUERY, "k": Axes.KEY}
        return frozenset(name for name, axis in axes.items() if self.expr.axes & axis)

    def _spell(self) -> str:
        return f"not {spell(self.expr)}" if self.negated else spell(self.expr)


Term: TypeAlias = "Var | Element | FloorDiv | Modulo | Extreme | Pick | FirstGe | TileExtreme"
Formula: TypeAlias = "Le | All | AnyOf | Opaque"
TRUE, FALSE = All(()), AnyOf(())


def poly(coefficients: dict[Monomial, int]) -> Poly:
    """The polynomial with these coefficients; zeros are dropped."""
    kept = [(m, c) for m, c in coefficients.items() if c]
    return Poly(tuple(sorted(kept, key=lambda t: tuple(map(str, t[0])))))


def number(value: int) -> Poly:
    """A constant."""
    return poly({(): int(value)})


def of(term: Term) -> Poly:
    """A polynomial of one term."""
    return poly({(term,): 1})


def var(name: str) -> Poly:
    """A variable."""
    return of(Var(name))


def as_poly(value: Poly | int) -> Poly:
    """Integers become constants."""
    return value if isinstance(value, Poly) else number(value)


def children(node: IndexNode) -> tuple[IndexNode, ...]:
    """The arguments of a node; for a polynomial its terms."""
    match node:
        case Poly(terms=terms):
            return tuple(term for monomial, _ in terms for term in monomial)
        case Element(index=index):
            return index
        case FloorDiv(num=num, den=den) | Modulo(num=num, den=den):
            return (num, den)
        case Extreme(args=args) | All(args=args) | AnyOf(args=args):
            return args
        case Pick(condition=condition, yes=yes, no=no):
            return (condition, yes, no)
        case FirstGe(row=row, value=value, length=length):
            return (*row.index[:-1], value, length)
        case TileExtreme(row=row, lo=lo, hi=hi):
            return (*row.index[:-1], lo, hi)
        case Le(poly=p):
            return (p,)
    return ()


def walk(node: IndexNode) -> Iterator[IndexNode]:
    """The node and everything below it, outermost first (shared nodes as often as they occur)."""
    yield node
    for child in children(node):
        yield from walk(child)


def spell(e: Expr) -> str:
    """A value expression as text, for people."""
    symbols = {"add": "+", "mul": "*", "floordiv": "//", "mod": "%", "pow": "**"}
    symbols |= {"lt": "<", "le": "<=", "eq": "==", "ne": "!=", "and": "and", "or": "or"}
    match e:
        case Const(value=value):
            return str(value)
        case Index(name=name):
            return name
        case Load(tensor=tensor, index=index):
            return f"{tensor}[{', '.join(map(spell, index))}]" if index else tensor
        case Binary(op=op, a=a, b=b) if op in symbols:
            return f"({spell(a)} {symbols[op]} {spell(b)})"
        case Binary(op=op, a=a, b=b):
            return f"{op}({spell(a)}, {spell(b)})"
        case Unary(op=op, x=x) | Cast(dtype=op, x=x):
            return f"{op}({spell(x)})"
        case Where(condition=condition, a=a, b=b):
            return f"where({spell(condition)}, {spell(a)}, {spell(b)})"
    return type(e).__name__.lower()


def _sum(*scaled: tuple[Poly, int]) -> Poly:
    out: dict[Monomial, int] = {}
    for p, factor in scaled:
        for monomial, c in p.terms:
            out[monomial] = out.get(monomial, 0) + factor * c
    return poly(out)


def _tight(p: Poly) -> str:
    simple = len(p.terms) <= 1 and all(c > 0 and len(m) < 2 for m, c in p.terms)
    return str(p) if simple else f"({p})"


def _positive_part(p: Poly) -> Poly:
    return poly({m: c for m, c in p.terms if c > 0 and m})


def _equalities(args: tuple[Formula, ...]) -> list[str]:
    """`a <= b and b <= a` reads `a == b`."""
    out: list[str] = []
    for f in args:
        twin = Le(-f.poly) if isinstance(f, Le) else None
        if not isinstance(f, Le) or twin not in args:
            out.append(str(f))
        elif args.index(f) < args.index(twin):
            left = _positive_part(f.poly)
            out.append(f"{left} == {left - f.poly}")
    return out
