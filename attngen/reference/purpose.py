"""What an input is for, read off the spec: which values make sense in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attngen.ir.attention import Attention, Tensor
from attngen.ir.build import factors, number
from attngen.ir.expr import (
    COMPARE,
    Binary,
    Expr,
    Index,
    Load,
    Row,
    State,
    Unary,
    Uniform,
    children,
)
from attngen.ir.recurrence import Recurrence
from attngen.ir.walk import walk

Program = Attention | Recurrence


@dataclass(frozen=True)
class Purpose:
    """Kind of use; axis: the name in the size table that bounds the values.

    Integers: boundaries, table, lengths, blocks, count, seed, position, index, ascending, small.
    Floats: scale (positive), decay (negative), growth and rate (positive, below one), plain.
    """

    kind: str
    axis: str = ""


def purpose_of(program: Program, tensor: Tensor) -> Purpose:
    """The use of one declared tensor."""
    found = _storage(program, tensor) or _sparsity(program, tensor)
    if found is not None:
        return found
    if tensor.sorted:
        return Purpose("ascending")
    if tensor.dtype.is_integer:
        return _integer_use(program, tensor.name)
    if isinstance(program, Recurrence) and not tensor.is_stream:
        return _gate_use(program, tensor.name)
    return Purpose("plain")


def _storage(program: Program, tensor: Tensor) -> Purpose | None:
    """Tensors named by `packed`, `paged` or `scaled`."""
    for stream in program.tensors:
        position = stream.axis("position")
        if stream.packed == tensor.name and position is not None:
            return Purpose("boundaries", stream.axes[position].name)
        if stream.scaled == tensor.name:
            return Purpose("scale")
        if stream.paged is not None and tensor.name in stream.paged:
            table = stream.paged[0] == tensor.name
            name = stream.axes[0].name if table else f"capacity of {stream.name}"
            return Purpose("table" if table else "lengths", name)
    return None


def _sparsity(program: Program, tensor: Tensor) -> Purpose | None:
    sparsity = program.sparsity if isinstance(program, Attention) else None
    if sparsity is None or tensor.name not in sparsity.tensors:
        return None
    if tensor.name == sparsity.tensors[0]:
        return Purpose("blocks", "key blocks")
    index = next(t for t in program.tensors if t.name == sparsity.tensors[0])
    return Purpose("count", index.axes[-1].name)


def _roots(program: Program) -> Iterator[Expr]:
    if isinstance(program, Recurrence):
        yield from (e for _, e in program.updates)
        yield from (e for _, e, _ in program.outputs)
        return
    yield from (e for _, e in program.outputs)
    if program.mask is not None:
        yield program.mask


def _reads(e: Expr, name: str) -> bool:
    return any(isinstance(x, Load | Row) and x.tensor == name for x in walk(e))


def _integer_use(program: Program, name: str) -> Purpose:
    """Position if compared with one or a divisor of one; index if it selects from a tensor."""
    kind = "small"
    for e in walk(*_roots(program)):
        match e:
            case Uniform(seed=seed) if _reads(seed, name):
                return Purpose("seed")
            case Load(tensor=tensor, index=index):
                for place, i in enumerate(index):
                    if _reads(i, name):
                        declared = next(t for t in program.tensors if t.name == tensor)
                        return Purpose("index", declared.axes[place].name)
            case Binary(op=op) if op in (*COMPARE, "floordiv", "mod") and _reads(e, name):
                kind = "position" if _has_position(e) else kind
    return Purpose(kind)


def _has_position(e: Expr) -> bool:
    """Whether positions stand beside the tensor, not only in its own indices."""
    match e:
        case Load() | Row():
            return False
        case Index(name=index):
            return index in ("q_idx", "q_pos", "kv_idx", "t")
    return any(_has_position(x) for x in children(e))


def _gate_use(program: Recurrence, name: str) -> Purpose:
    """Signs that keep `exp(...) * M` a contraction; any other input is a rate in (0, 1)."""
    for e in walk(*_roots(program)):
        if not isinstance(e, Unary) or e.op != "exp" or not _reads(e.x, name):
            continue
        parts = factors(e.x)
        plain = [f.tensor for f in parts if isinstance(f, Load | Row)]
        if name not in plain:
            return Purpose("growth")
        negative = any((value := number(f)) is not None and value < 0 for f in parts)
        return Purpose("growth" if negative or plain[0] != name else "decay")
    return Purpose("rate" if any(isinstance(e, State) for e in walk(*_roots(program))) else "plain")
