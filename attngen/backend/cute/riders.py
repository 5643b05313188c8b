"""Which tensors a score reads are loaded together with the keys (`cutelib.riders`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention
from attngen.ir.expr import Expr, Index, Load
from attngen.ir.walk import walk

ROLES = {"b": "batch", "h": "head", "h_kv": "kv_head", "q_idx": "query", "kv_idx": "key"}
HALVES = (Dtype.BF16, Dtype.F16)
MOST = 3  # places in shared memory
PAIRS = 1  # a tile of pairs takes as much as one of keys


@dataclass(frozen=True)
class Riding:
    """A load that becomes a value. roles: of the tensor's axes, see `cutelib.plan.Rider`."""

    load: Load
    roles: tuple[str, ...]
    dtype: Dtype

    @property
    def pairs(self) -> bool:
        """Whether there is an element for each pair."""
        return "query" in self.roles

    @property
    def bytes(self) -> int:
        """Of an element."""
        return 4 if self.dtype is Dtype.F32 else 2


def riders_of(attention: Attention, *score: Expr | None) -> tuple[Riding, ...]:
    """The loads of a score that ride, in order of the text; the others stay loads."""
    found: dict[Load, Riding] = {}
    for riding in _found(attention, [e for e in score if e is not None]):
        pairs = sum(x.pairs for x in found.values())
        if len(found) < MOST and not (riding.pairs and pairs == PAIRS):
            found.setdefault(riding.load, riding)
    return tuple(found.values())


def _found(attention: Attention, score: list[Expr]) -> Iterator[Riding]:
    for e in walk(*score):
        if not isinstance(e, Load) or not e.index:
            continue
        names = [x.name if isinstance(x, Index) else "" for x in e.index]
        roles = tuple(ROLES.get(name, "") for name in names)
        tensor = attention.tensor(e.tensor)
        kinds = HALVES if "query" in roles else (Dtype.F32,)
        # the axes before these may be broadcast, by a stride of 0
        ends = roles[-2:] == ("query", "key") or ("query" not in roles and roles[-1:] == ("key",))
        known = ends and all(roles) and len({x.removeprefix("kv_") for x in roles}) == len(roles)
        if known and tensor.dtype in kinds and tensor.view is None:
            yield Riding(e, roles, tensor.dtype)
