"""What the declarations of a spec say, as statements look it up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from attngen.ir.attention import Axis, Tensor
from attngen.ir.expr import Extent

STREAMS = ("query", "key", "value")
Value: TypeAlias = int | float | bool
TO_THE_END = -1  # stop of a view that takes all columns of a width not known as a number


@dataclass
class Declarations:
    """What the declarations of a spec say.

    params: with overrides applied; sizes: feature axes fixed from outside; tensors in order, states
    included; failed: names whose declaration had a mistake.
    """

    form: str
    params: dict[str, Value] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)

    def position_names(self, *roles: str) -> set[str]:
        """Names of the position axes of the streams with these roles."""
        return {
            t.axes[at].name
            for t in self.tensors.values()
            if t.role in roles and not t.paged and (at := t.axis("position")) is not None
        }

    def head_names(self, *roles: str) -> set[str]:
        """Names of the head axes of the streams with these roles."""
        return {
            a.name
            for t in self.tensors.values()
            if t.role in roles
            for a in t.axes
            if a.role == "head"
        }

    def feature_names(self) -> set[str]:
        """Names of the feature axes (not of numbers)."""
        named = (a for t in self.tensors.values() for a in t.axes if a.role == "feature")
        return {a.name for a in named if a.name.isidentifier() and a.name not in self.params}

    def extent(self, axis: Axis) -> Extent:
        """A feature axis as expressions know it: its size if known, else its name."""
        return axis.name if axis.size is None else axis.size
