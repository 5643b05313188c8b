"""Structural keys: one text per expression, equal for sums and products that differ in order only.

Orders made by the online pass must not depend on object identities, so everything is sorted by
these keys.
"""

from __future__ import annotations

import hashlib

from attngen.ir.build import factors, terms
from attngen.ir.expr import (
    Binary,
    Cast,
    Const,
    Dot,
    Expr,
    Index,
    Known,
    Load,
    Recomputed,
    Reduced,
    Row,
    Size,
    State,
    Top,
    Unary,
    children,
)
from attngen.ir.walk import walk

LONGEST = 160  # a longer key is replaced by its digest, so that shared nodes do not blow it up
COMMUTATIVE = ("max", "min", "and", "or", "eq", "ne", "logaddexp")


class Keys:
    """Computes and remembers structural keys, and the first spelling seen of each key."""

    def __init__(self) -> None:
        self._keys: dict[Expr, str] = {}
        self._first: dict[str, Expr] = {}

    def __call__(self, e: Expr) -> str:
        """The structural key of `e`."""
        if e not in self._keys:
            for node in walk(e):
                if node not in self._keys:
                    self._keys[node] = self._short(self._text(node))
        return self._keys[e]

    def spelling(self, e: Expr) -> Expr:
        """The first expression seen with the key of `e`: how it was written first."""
        return self._first.setdefault(self(e), e)

    def _text(self, e: Expr) -> str:
        match e:
            case Binary(op="add"):
                return self._call("add", terms(e), commutes=True)
            case Binary(op="mul"):
                return self._call("mul", factors(e), commutes=True)
            case Binary(op=op):
                return self._call(op, children(e), commutes=op in COMMUTATIVE)
            case Dot():
                return self._call("dot", children(e), commutes=True)
            case _:
                return self._call(_label(e), children(e), commutes=False)

    def _call(self, label: str, args: tuple[Expr, ...] | list[Expr], commutes: bool) -> str:
        keys = [self._keys[a] for a in args]
        return f"{label}({','.join(sorted(keys) if commutes else keys)})"

    def _short(self, text: str) -> str:
        if len(text) <= LONGEST:
            return text
        return f"{text[: text.index('(')]}#{hashlib.sha256(text.encode()).hexdigest()[:40]}"


def _label(e: Expr) -> str:
    match e:
        case Const(value=value):
            return f"{e.kind}:{value!r}"
        case Size(name=name) | Index(name=name):
            return f"{type(e).__name__}.{name}"
        case Row(tensor=tensor, side=side, width=width, start=start):
            return f"row.{tensor}.{side.value}.{width}.{start}"
        case Load(tensor=tensor, element=element):
            return f"load.{tensor}.{element}"
        case Unary(op=op):
            return op
        case Cast(dtype=dtype):
            return f"cast.{dtype}"
        case Top(count=count, part=part):
            return f"top.{count}.{part}"
        case _:
            return _made(e)


def _made(e: Expr) -> str:
    """The label of a node that passes make, or of one told apart by its class alone."""
    match e:
        case Reduced(what=what, index=index, width=width):
            return f"{what}.{index}.{width}"
        case Known(name=name) | State(name=name):
            return f"{type(e).__name__}.{name}"
        case Recomputed(index=index):
            return f"recomputed.{index}"
        case _:
            return type(e).__name__
