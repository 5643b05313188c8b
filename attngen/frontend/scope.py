"""What a name means at one place of a spec."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from attngen.core.source import Span
from attngen.frontend.declare import Declarations
from attngen.frontend.mistake import Mistake, wrong
from attngen.frontend.reads import bare_read
from attngen.frontend.vocabulary import AXES, BUILT_IN, FUNCTIONS, RESERVED
from attngen.ir.expr import Const, Expr, Index, Size, State, children
from attngen.ir.spell import CAUSAL
from attngen.ir.walk import walk
from attngen.syntax import ast
from attngen.syntax.words import nearest


@dataclass
class Scope:
    """Names bound so far, and what is remembered about expressions for readable output.

    updates: state updates done so far; bound: name -> (value, updates done when it was bound);
    failed: names whose statement had a mistake, so that using them is not a second one.
    """

    declared: Declarations
    updates: int = 0
    bound: dict[str, tuple[Expr, int]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    names: dict[Expr, str] = field(default_factory=dict)
    spans: dict[Expr, Span] = field(default_factory=dict)

    @property
    def form(self) -> str:
        """Either `attention` or `recurrence`."""
        return self.declared.form

    def bind(self, word: ast.Word, value: Expr) -> None:
        """Gives a value a name; leaves keep their own."""
        self.bound[word.text] = (value, self.updates)
        if children(value):
            self.names.setdefault(value, word.text)

    def check_new(self, word: ast.Word) -> None:
        """A name may be bound once and must not hide another."""
        text = word.text
        if text in self.bound or text in self.failed:
            raise wrong(
                "E102",
                f"`{text}` is bound twice",
                word.span,
                "bound before",
                f"give the second one its own name, such as `{text}2`",
            )
        if text in self.declared.tensors or text in self.declared.params:
            raise wrong(
                "E102",
                f"`{text}` is already declared",
                word.span,
                "a statement cannot replace a declaration",
                f"give it its own name, such as `{text}2`",
            )
        if text in self.declared.feature_names():
            self.failed.add(text)
            raise wrong(
                "E102",
                f"`{text}` is already the name of a feature axis",
                word.span,
                "would hide the axis",
                f"give it its own name, such as `{text.lower()}_value`",
            )
        if text in taken_words(self.form) and text not in RESERVED:
            self.failed.add(text)
            raise wrong(
                "E103",
                f"`{text}` is a word of the language",
                word.span,
                "expected a name of your own",
                f"call it `my_{text}`",
            )

    def read(self, name: ast.Name) -> Expr:
        """The value of a name used in an expression."""
        text, declared = name.text, self.declared
        if text in self.failed:
            raise Mistake(None)
        if text in self.bound:
            return self._read_bound(name)
        if text in declared.states:
            return self.state(text)
        if text in declared.tensors:
            return bare_read(declared, declared.tensors[text], name.span)
        if text in declared.params:
            return Const(declared.params[text])
        if text in BUILT_IN[self.form]:
            return _built_in(text)
        if text in declared.feature_names():
            size = declared.sizes.get(text)
            return Size(text) if size is None else Const(size)
        raise self._undefined(name)

    def state(self, name: str) -> State:
        """The node of a state."""
        extents = [
            self.declared.extent(a) for a in self.declared.tensors[name].axes if a.role == "feature"
        ]
        return State(name, extents[0], extents[1] if len(extents) > 1 else None)

    def _read_bound(self, name: ast.Name) -> Expr:
        value, updates = self.bound[name.text]
        if updates != self.updates and any(isinstance(e, State) for e in walk(value)):
            raise wrong(
                "E125",
                f"`{name.text}` was computed from the state before the state changed",
                name.span,
                "would read the new state here",
                f"move the statement that binds `{name.text}` below the update,"
                " or write the expression here",
            )
        return value

    def _undefined(self, name: ast.Name) -> Mistake:
        text = name.text
        if text in FUNCTIONS:
            usage = FUNCTIONS[text].usage
            return wrong(
                "E101",
                f"`{text}` is a function",
                name.span,
                "found without arguments",
                f"call it: `{usage}`",
            )
        if text in AXES:
            length = "`kv_len` or `q_len`" if self.form == "attention" else "`seq_len`"
            return wrong(
                "E101",
                f"the size of the axis `{text}` is not known when kernels are made",
                name.span,
                "expected the name of a feature axis",
                f"write {length}"
                if text[0] in "ST"
                else f"pass it: `input {text.lower()}_size : i32`",
            )
        other = "recurrence" if self.form == "attention" else "attention"
        if text in BUILT_IN[other]:
            near = {"t": "q_idx", "seq_len": "q_len", "q_idx": "t", "kv_idx": "t"}.get(text)
            return wrong(
                "E126",
                f"`{text}` belongs to the {other} form",
                name.span,
                f"found in an {self.form} spec"
                if other == "recurrence"
                else "found in a recurrence",
                f"write `{near}`" if near else f"start the file with `{other}`",
            )
        near = nearest(text, self._visible())
        return wrong(
            "E101",
            f"`{text}` is not defined",
            name.span,
            "unknown name",
            f"did you mean `{near}`?"
            if near
            else f"bind it above, `{text} = ...`, or declare it: `input {text} : f32`",
        )

    def _visible(self) -> set[str]:
        return {
            *self.bound,
            *self.declared.tensors,
            *self.declared.params,
            *BUILT_IN[self.form],
            *self.declared.feature_names(),
        }


def taken_words(form: str) -> set[str]:
    """Words a declaration may not use."""
    return {*BUILT_IN[form], *FUNCTIONS, *RESERVED}


def _built_in(name: str) -> Expr:
    if name == "causal":
        return CAUSAL
    return Const(math.inf) if name == "inf" else Index(name)
