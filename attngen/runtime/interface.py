"""What a call needs to know of a spec: its declarations, without its formulas.

It is kept in the cache under the text of the spec, so that a process that finds its kernels there
neither parses the spec nor imports the parser.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Axis, Tensor


@dataclass(frozen=True)
class Interface:
    """Declarations of a checked spec.

    outputs: names of the results; lone: scalars that only bound positions (see lone.py).
    """

    name: str
    tensors: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    lone: frozenset[str]
    targets: tuple[str, ...]
    schedule: tuple[tuple[str, str | int | bool], ...]

    @classmethod
    def of(cls, attention: Attention) -> Interface:
        """The declarations of a spec that was read."""
        from attngen.runtime.lone import lone_scalars  # noqa: PLC0415 - not needed on a hit

        return cls(
            attention.name,
            attention.tensors,
            tuple(name for name, _ in attention.outputs),
            lone_scalars(attention),
            attention.targets,
            attention.schedule,
        )

    def stored(self) -> dict[str, Any]:
        """As JSON; `restored` reads it back, but for the spans."""
        return {
            "name": self.name,
            "tensors": [_stored_tensor(t) for t in self.tensors],
            "outputs": list(self.outputs),
            "lone": sorted(self.lone),
            "targets": list(self.targets),
            "schedule": [list(pair) for pair in self.schedule],
        }

    @classmethod
    def restored(cls, meta: Mapping[str, Any]) -> Interface:
        """From what `stored` gave."""
        return cls(
            meta["name"],
            tuple(_restored_tensor(t) for t in meta["tensors"]),
            tuple(meta["outputs"]),
            frozenset(meta["lone"]),
            tuple(meta["targets"]),
            tuple((name, value) for name, value in meta["schedule"]),
        )


def feature_names(declares: Attention | Interface) -> tuple[str, ...]:
    """Named feature axes in order of appearance: the sizes a kernel is specialised for."""
    features: dict[str, None] = {}
    others: set[str] = set()
    for axis in (a for tensor in declares.tensors for a in tensor.axes):
        if axis.role != "feature":
            others.add(axis.name)
        elif axis.size is None and axis.name.isidentifier():
            features[axis.name] = None
    return tuple(name for name in features if name not in others)


def _stored_tensor(tensor: Tensor) -> dict[str, Any]:
    fields = {f.name: getattr(tensor, f.name) for f in dataclasses.fields(tensor)}
    del fields["span"]
    axes = [[a.name, a.role, a.size] for a in tensor.axes]
    return fields | {"dtype": tensor.dtype.value, "axes": axes}


def _restored_tensor(meta: Mapping[str, Any]) -> Tensor:
    pairs = {n: tuple(meta[n]) if meta[n] else None for n in ("paged", "view")}
    axes = tuple(Axis(*axis) for axis in meta["axes"])
    return Tensor(**{**meta, **pairs, "dtype": Dtype(meta["dtype"]), "axes": axes})
