"""The syntax tree: what was written and where, before any name has a meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from attngen.core.source import Span


@dataclass(frozen=True)
class Word:
    """A name in a place that declares or refers to something."""

    text: str
    span: Span


@dataclass(frozen=True)
class Number:
    """A literal: whole, real or bool."""

    value: bool | int | float
    span: Span


@dataclass(frozen=True)
class Name:
    """A name used as a value."""

    text: str
    span: Span


@dataclass(frozen=True)
class Call:
    """`function(args, name = value)`; the span covers the closing bracket."""

    function: Word
    args: tuple[Expression, ...]
    named: tuple[tuple[Word, Expression], ...]
    span: Span


@dataclass(frozen=True)
class Element:
    """`tensor[i, j]`."""

    tensor: Word
    index: tuple[Expression, ...]
    span: Span


@dataclass(frozen=True)
class Unary:
    """`-x` or `not x`."""

    op: str
    x: Expression
    span: Span


@dataclass(frozen=True)
class Binary:
    """`a op b` with the operator as it is spelled."""

    op: str
    a: Expression
    b: Expression
    span: Span


@dataclass(frozen=True)
class Pair:
    """`(a, b)`: a block size."""

    a: Expression
    b: Expression
    span: Span


Expression: TypeAlias = Number | Name | Call | Element | Unary | Binary | Pair


@dataclass(frozen=True)
class Axis:
    """`B`, `129` or `B + 1`: name is empty for a number, offset is 0 without `+ n`."""

    name: str
    offset: int
    span: Span


@dataclass(frozen=True)
class Type:
    """`half[B, S, D]`; no axes for a scalar."""

    dtype: Word
    axes: tuple[Axis, ...]
    span: Span


@dataclass(frozen=True)
class Fact:
    """`sorted`, `const`, `packed(cu)`, `paged(table, lengths)` or `scaled(s)`."""

    kind: str
    names: tuple[Word, ...]
    span: Span


@dataclass(frozen=True)
class Tensors:
    """`query q, r : type facts`; role is query, key, value, input or state."""

    role: str
    names: tuple[Word, ...]
    type: Type
    facts: tuple[Fact, ...]
    span: Span


@dataclass(frozen=True)
class View:
    """`value v = k[start:stop]`; None where a bound is left out."""

    role: str
    name: Word
    parent: Word
    start: int | None
    stop: int | None
    span: Span


@dataclass(frozen=True)
class Param:
    """`param NAME = value`."""

    name: Word
    value: Expression
    span: Span


@dataclass(frozen=True)
class Bind:
    """`a, b = value`."""

    names: tuple[Word, ...]
    value: Expression
    span: Span


@dataclass(frozen=True)
class Return:
    """`return a, b`."""

    values: tuple[Expression, ...]
    span: Span


@dataclass(frozen=True)
class Targets:
    """`target sm_90, sm_80`."""

    names: tuple[Word, ...]
    span: Span


@dataclass(frozen=True)
class Setting:
    """One line of a schedule block; a value written as a name is a str."""

    name: Word
    value: str | int | float | bool
    span: Span


@dataclass(frozen=True)
class Schedule:
    """`schedule { ... }`."""

    settings: tuple[Setting, ...]
    span: Span


Item: TypeAlias = Tensors | View | Param | Bind | Return | Targets | Schedule


@dataclass(frozen=True)
class Spec:
    """A whole file; form is `attention` or `recurrence`."""

    form: str
    name: Word
    items: tuple[Item, ...]
    span: Span


def parts(e: Expression) -> tuple[Expression, ...]:
    """The expressions directly inside one."""
    match e:
        case Number() | Name():
            return ()
        case Call(args=args, named=named):
            return (*args, *(value for _, value in named))
        case Element(index=index):
            return index
        case Unary(x=x):
            return (x,)
        case Binary(a=a, b=b) | Pair(a=a, b=b):
            return (a, b)


def names_in(e: Expression) -> Iterator[Name]:
    """The names used as values inside an expression, left to right."""
    if isinstance(e, Name):
        yield e
    for part in parts(e):
        yield from names_in(part)
