"""Invariants of a program, checked between passes; a violation is a bug of attngen, not of a spec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attngen.ir.attention import Attention, Tensor
from attngen.ir.expr import (
    ARITHMETIC,
    COMPARE,
    LOGIC,
    UNARY,
    Axes,
    Binary,
    Const,
    Dot,
    Expr,
    Index,
    Load,
    LogSumExp,
    MatMul,
    Outer,
    Row,
    Side,
    Softmax,
    State,
    Sum,
    Top,
    Unary,
    Where,
    matrix,
)
from attngen.ir.walk import walk

REDUCTIONS = (Softmax, Sum, LogSumExp, Top)


class InvalidProgram(AssertionError):  # noqa: N818 - says what is wrong with the program
    """A pass broke an invariant of the IR."""


def verify(program: Attention) -> None:
    """Raises InvalidProgram if an invariant of the attention form does not hold."""
    tensors = {t.name: t for t in program.tensors}
    _require(len(tensors) == len(program.tensors), "two tensors with one name")
    _require(bool(program.outputs), "no outputs")
    _require(len({n for n, _ in program.outputs}) == len(program.outputs), "an output name twice")
    for tensor in program.tensors:
        _verify_tensor(tensor, tensors)
    for name, e in program.outputs:
        _require(Axes.KEY not in e.axes, f"output {name} varies over keys")
        _require(e.kind != "bool", f"output {name} is a bool")
        _verify_all(e, tensors)
    if program.mask is not None:
        _verify_mask(program.mask, tensors)
    if program.sparsity is not None:
        _require(all(n in tensors for n in program.sparsity.tensors), "sparsity: unknown tensor")
        if program.sparsity.score is not None:
            _verify_all(program.sparsity.score, tensors)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvalidProgram(message)


def _verify_tensor(tensor: Tensor, tensors: Mapping[str, Tensor]) -> None:
    described = [tensor.packed, tensor.scaled, *(tensor.paged or ())]
    _require(all(n in tensors for n in described if n), f"{tensor.name}: unknown storage tensor")
    if tensor.view is not None:
        parent, start, stop = tensor.view
        _require(parent in tensors, f"{tensor.name}: view of unknown {parent}")
        _require(tensors[parent].view is None, f"{tensor.name}: view of a view")
        _require(start >= 0 and (stop < 0 or stop > start), f"{tensor.name}: empty view")
    if tensor.is_stream:
        _require(tensor.axis("position") is not None, f"{tensor.name}: stream without positions")
        _require(tensor.axes[-1].role == "feature", f"{tensor.name}: stream without features")


def _verify_mask(mask: Expr, tensors: Mapping[str, Tensor]) -> None:
    _require(mask.kind == "bool" and mask.feature is None, "the mask is not a bool")
    reduced = any(isinstance(e, REDUCTIONS) for e in walk(mask))
    _require(not reduced, "the mask holds a reduction")
    _verify_all(mask, tensors)


def _verify_all(root: Expr, tensors: Mapping[str, Tensor]) -> None:
    for e in walk(root):
        try:
            _verify_node(e, tensors)
        except InvalidProgram as error:
            raise InvalidProgram(f"{error}: {e!r:.200}") from None


def _verify_node(e: Expr, tensors: Mapping[str, Tensor]) -> None:
    _require(Axes.TIME not in e.axes, "a time axis in the attention form")
    match e:
        case Row():
            _verify_row(e, tensors)
        case Load(tensor=name, index=index):
            _require(name in tensors, f"load of undeclared {name}")
            _require(len(index) == len(tensors[name].axes), "wrong number of indices")
            _require(all(i.kind == "int" and i.feature is None for i in index), "index kind")
        case Unary(op=op, x=x):
            _require(op in UNARY, f"unknown function {op}")
            _require((op == "not") == (x.kind == "bool"), "kind of a function's argument")
        case Binary():
            _verify_binary(e)
        case Where(condition=condition, a=a, b=b):
            _require(condition.kind == "bool" and condition.feature is None, "condition kind")
            _same_feature((a, b))
        case Dot(a=a, b=b):
            _require(a.feature is not None and a.feature == b.feature, "dot of unlike rows")
        case Softmax(score=score, sink=sink) | LogSumExp(score=score, sink=sink):
            _verify_score(score)
            _require(sink is None or Axes.KEY not in sink.axes, "a sink varies over keys")
        case Top(score=score, part=part, count=count):
            _verify_score(score)
            _require(part in ("values", "indices") and count >= 1, "parts of a top list")
        case Sum(x=x):
            _require(x.kind != "bool", "sum of bools")
            _require(Axes.KEY in x.axes or isinstance(x, Const), "sum without a key axis")
        case State() | Outer() | MatMul():
            _require(False, "a state in the attention form")
        case Index(name=name):
            _require(name not in ("t", "seq_len"), "a time index in the attention form")
        case _:
            pass


def _verify_row(e: Row, tensors: Mapping[str, Tensor]) -> None:
    _require(e.tensor in tensors, f"row of undeclared {e.tensor}")
    tensor = tensors[e.tensor]
    _require(e.side is not Side.TIME, "a row over time in the attention form")
    _require(bool(tensor.axes) and tensor.axes[-1].role == "feature", "row without features")
    size = tensor.axes[-1].size
    if isinstance(e.width, int) and size is not None:
        _require(e.start + e.width <= size, "row wider than its tensor")


def _verify_binary(e: Binary) -> None:
    _require(e.op in (*ARITHMETIC, *COMPARE, *LOGIC), f"unknown operator {e.op}")
    bools = [x.kind == "bool" for x in (e.a, e.b)]
    _require(all(bools) if e.op in LOGIC else not any(bools), f"kinds beside {e.op}")
    if e.op in COMPARE or e.op in LOGIC:
        _require(e.a.feature is None and e.b.feature is None, "comparison of rows")
    _same_feature((e.a, e.b))


def _same_feature(both: Iterable[Expr]) -> None:
    features = {x.feature for x in both if x.feature is not None and matrix(x) is None}
    _require(len(features) <= 1, "unlike feature axes")


def _verify_score(score: Expr) -> None:
    _require(score.feature is None and score.kind != "bool", "a score is one number")
    _require(Axes.KEY in score.axes, "a score without a key axis")
