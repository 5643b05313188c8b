"""Names of a spec that a generated file needs for itself get another one before printing.

A user's names stay in the kernel where they can: a reader finds the formula again. Tensors are
passed by position, so what a user types is not touched by this.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from attngen.ir.attention import Attention, Sparsity, Tensor
from attngen.ir.expr import Expr, Load, Row
from attngen.ir.walk import rewrite
from attngen.passes.simplify import moved

_LANGUAGE = "tl triton torch math TensorDescriptor self type id range len print"
_INDICES = """
n b h h_kv q_idx kv_idx q_pos row0 row1 anchor inside part bh slot slots program tiles split splits
head_group in_group q_start kv_start q_len kv_len batch heads kv_heads heads_total heads_in_l2 in_l2
group lo hi full_lo full_hi inner_lo inner_hi longer swap span
programs rows places parts cells first first_row share place row at padded m col0 col1 of_group
key_slots cell tokens head_groups
"""
_STATE = """
acc m_new m_safe alpha keep live better score_max score_at candidate_max candidate_at candidate_best
w w_0 w_1 w_2 w_3 w_4 w_5 w_6 w_7 w_8 w_9 PARTIAL
"""
_HELPERS = """
tanh softplus logaddexp floor_div floor_mod first_ge larger run_starts run_ends sequence_of uniform
pack_top unpack_value unpack_index
"""
RESERVED = frozenset(dir(builtins)) | frozenset(
    f"{_LANGUAGE} {_INDICES} {_STATE} {_HELPERS}".split()
)
"""Names the templates and the printer use themselves, and those the loader refuses."""

_DERIVED = re.compile(
    r"\w+_(ptr|head|tiles|base|cells|handle|step|forward|merge|any_kept|starts?|ends?|parts|stride_\w+|size_\d+)"
    r"|(lo|hi|full_lo|full_hi)_\d+|group_\w+"
)
"""Names that are made from those of tensors: `q_ptr`, `doc_start`, `acc_v_parts`."""


def reserved(name: str, others: Collection[str] = ()) -> bool:
    """Whether a generated file may have something of its own by that name.

    others: names of tensors; parts and the gradient of one (`q_1`, `d_q`) are derived from it.
    """
    stem, _, number = name.rpartition("_")
    part = (number.isdecimal() and stem in others) or name.removeprefix("d_") in {*others} - {name}
    return part or name in RESERVED or _DERIVED.fullmatch(name) is not None


def rename_reserved(attention: Attention) -> Attention:
    """The same spec with other names for tensors and results whose names are reserved."""
    wanted = [t.name for t in attention.tensors] + [name for name, _ in attention.outputs]
    names = _names([*wanted, attention.name])
    if all(old == new for old, new in names.items()):
        return attention
    memo: dict[Expr, Expr] = {}

    def value(e: Expr) -> Expr:
        return rewrite(e, lambda x: _node(x, names), memo)

    return replace(
        attention,
        name=names[attention.name],
        tensors=tuple(_tensor(t, names) for t in attention.tensors),
        mask=None if attention.mask is None else value(attention.mask),
        outputs=tuple((names[name], value(e)) for name, e in attention.outputs),
        sparsity=_sparsity(attention.sparsity, names, value),
        names=moved(attention.names, memo),
        spans=moved(attention.spans, memo),
    )


def _names(wanted: Iterable[str]) -> dict[str, str]:
    """Old name -> new name: the old one with `_in` or the first number that makes it free."""
    names = list(dict.fromkeys(wanted))
    taken = {name for name in names if not reserved(name, names)}
    out = {name: name for name in taken}
    for name in names:
        if name not in out:
            candidates = [f"{name}_{suffix}" for suffix in ("in", *range(2, len(names) + 3))]
            # `q_stride_b_in` would still be a stride: what is left of such a name is a number
            candidates += [f"user{i}" for i in range(1, len(names) + 2)]
            out[name] = next(c for c in candidates if c not in taken and not reserved(c))
            taken.add(out[name])
    return out


def _node(e: Expr, names: dict[str, str]) -> Expr:
    match e:
        case Row(tensor=tensor, side=side, width=width, start=start):
            return Row(names[tensor], side, width, start)
        case Load(tensor=tensor, index=index, element=element):
            return Load(names[tensor], index, element)
        case _:
            return e


def _tensor(t: Tensor, names: dict[str, str]) -> Tensor:
    return replace(
        t,
        name=names[t.name],
        packed=t.packed and names[t.packed],
        paged=t.paged and (names[t.paged[0]], names[t.paged[1]]),
        scaled=t.scaled and names[t.scaled],
        view=t.view and (names[t.view[0]], t.view[1], t.view[2]),
    )


def _sparsity(
    s: Sparsity | None, names: dict[str, str], value: Callable[[Expr], Expr]
) -> Sparsity | None:
    if s is None:
        return None
    score = None if s.score is None else value(s.score)
    return replace(s, tensors=tuple(names[name] for name in s.tensors), score=score)
