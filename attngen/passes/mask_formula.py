"""The mask as written -> a formula over index expressions, in negation normal form.

`a == b` -> `a <= b and b <= a`, `a != b` -> `a < b or b < a`, `a < b` -> `a + 1 <= b` (integers
only), `flag == flag` -> `a and b or not a and not b`, `q_pos` -> `q + kv_len - q_len`. A comparison
that is not between integers (floats, integers made from floats) stays whole as `Opaque`: it must
not be flipped through `1 - p`, NaN would change sides. An `Opaque` stands only in a formula, never
inside a polynomial.
"""

from __future__ import annotations

from collections.abc import Callable

from attngen.ir.attention import Attention
from attngen.ir.expr import Binary, Cast, Const, Expr, Index, Load, Unary, Where
from attngen.ir.index import (
    FALSE,
    TRUE,
    Element,
    Formula,
    Opaque,
    Poly,
    number,
    of,
    var,
    walk,
)
from attngen.ir.index_build import (
    absolute,
    both,
    either,
    equal,
    floor_div,
    le,
    lt,
    maximum,
    minimum,
    modulo,
    negate,
    pick,
)


class NotAnInteger(Exception):  # noqa: N818 (caught below, never shown)
    """The expression has no exact integer polynomial."""


ARITHMETIC: dict[str, Callable[[Poly, Poly], Poly]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "min": minimum,
    "max": maximum,
    "floordiv": floor_div,
    "mod": modulo,
}
COMPARISON: dict[str, Callable[[Poly, Poly], Formula]] = {
    "le": le,
    "lt": lt,
    "eq": equal,
    "ne": lambda a, b: negate(equal(a, b)),
}


def mask_formula(attention: Attention) -> Formula:
    """The mask of a spec as a formula over q and k; TRUE when there is none."""
    return TRUE if attention.mask is None else Reader(attention).formula(attention.mask)


class Reader:
    """Reads value expressions as formulas and polynomials."""

    def __init__(self, attention: Attention) -> None:
        kv_len = var("kv_len")
        q_len = kv_len if attention.same_length else var("q_len")
        self.builtin = {name: var(name) for name in ("b", "h", "h_kv")} | {
            "q_idx": var("q"),
            "kv_idx": var("k"),
            "q_len": q_len,
            "kv_len": kv_len,
            "q_pos": var("q") + kv_len - q_len,
        }
        self.sorted_length = _sorted_lengths(attention, q_len, kv_len)

    def formula(self, e: Expr) -> Formula:
        """A boolean expression."""
        match e:
            case Const(value=value):
                return TRUE if value else FALSE
            case Binary(op="and", a=a, b=b):
                return both(self.formula(a), self.formula(b))
            case Binary(op="or", a=a, b=b):
                return either(self.formula(a), self.formula(b))
            case Unary(op="not", x=x):
                return negate(self.formula(x))
            case Where(condition=condition, a=a, b=b):
                return self._choice(condition, a, b)
            case Binary(op="eq" | "ne" as op, a=a, b=b) if a.kind == b.kind == "bool":
                return self._choice(a, b, b, same=op == "eq")
        try:
            return self._atom(e)
        except NotAnInteger:
            return Opaque(e)

    def poly(self, e: Expr) -> Poly:
        """An integer expression; raises NotAnInteger for any other."""
        match e:
            case Const(value=int() as value):  # bools too
                return number(value)
            case Index(name=name) if name in self.builtin:
                return self.builtin[name]
            case Load(element="int" | "bool"):
                return self._load(e)
            case Binary(op=op, a=a, b=b, kind="int") if op in ARITHMETIC:
                return self._arithmetic(op, self.poly(a), self.poly(b))
            case Unary(op="abs", x=x, kind="int"):
                return absolute(self.poly(x))
            case Unary(op="floor", x=x, kind="int") | Cast(x=x, dtype="i32" | "i64"):
                return self.poly(x)  # no change to an integer; a float has no polynomial
        return self._choose(e)

    def _load(self, e: Load) -> Poly:
        if not e.index and e.element == "int":
            return var(e.tensor)
        where = tuple(map(self.poly, e.index))
        return of(Element(e.tensor, where, self.sorted_length.get(e.tensor), e.element == "bool"))

    def _choose(self, e: Expr) -> Poly:
        """Where, or a flag used as a number."""
        if isinstance(e, Where) and e.kind == "int":
            return pick(self._exact(e.condition), self.poly(e.a), self.poly(e.b))
        if e.kind == "bool":
            return pick(self._exact(e), number(1), number(0))
        raise NotAnInteger

    def _atom(self, e: Expr) -> Formula:
        match e:
            case Binary(op=op, a=a, b=b) if op in COMPARISON:
                return COMPARISON[op](self.poly(a), self.poly(b))
            case Load(element="bool"):
                return le(number(1), self.poly(e))
        raise NotAnInteger

    def _choice(self, condition: Expr, a: Expr, b: Expr, same: bool | None = None) -> Formula:
        """Where; with `same`, whether two flags are equal (True) or differ (False)."""
        c, yes, no = self.formula(condition), self.formula(a), self.formula(b)
        if same is not None:
            yes, no = (yes, negate(no)) if same else (negate(yes), no)
        return either(both(c, yes), both(negate(c), no))

    def _exact(self, condition: Expr) -> Formula:
        f = self.formula(condition)
        if any(isinstance(node, Opaque) for node in walk(f)):
            raise NotAnInteger
        return f

    def _arithmetic(self, op: str, a: Poly, b: Poly) -> Poly:
        if op in ("floordiv", "mod") and b.constant == 0:
            raise NotAnInteger
        return ARITHMETIC[op](a, b)


def _sorted_lengths(attention: Attention, q_len: Poly, kv_len: Poly) -> dict[str, Poly]:
    """Sorted inputs whose rows lie along the positions of the queries or of the keys."""
    lengths: dict[str, Poly] = {}
    for tensor in attention.tensors:
        position = tensor.axis("position")
        if tensor.is_stream and position is not None:
            length = q_len if tensor.role == "query" else kv_len
            lengths.setdefault(tensor.axes[position].name, length)
    return {
        tensor.name: lengths[tensor.axes[-1].name]
        for tensor in attention.tensors
        if tensor.sorted and tensor.axes and tensor.axes[-1].name in lengths
    }
