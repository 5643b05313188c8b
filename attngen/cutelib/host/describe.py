"""`describe(function, plan)`: the launches of a compiled plan, as plain data for a package.

A launch is {"symbol", "grid", "threads", "shared", "dependent", "cooperative", "types",
"parameters"}. types: of each parameter: the types of its fields in order, "tensormap" for the 128
bytes of a tensor descriptor, whose first field is an address. parameters: of each a list of fields:
a number as a tree (`numbers`), `["address", argument, bytes after it]`, `["argument", name]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attngen.cutelib.backward.plan import BackwardPlan
from attngen.cutelib.host import numbers
from attngen.cutelib.host.code import Launched, Opaque, Run
from attngen.cutelib.host.memory import Memory, Type, read_type
from attngen.cutelib.host.numbers import HostCodeError, Number
from attngen.cutelib.host.text import Block, blocks, functions
from attngen.cutelib.plan import Plan

MAP_WORDS = 16
WIDEST = 1 << 40  # bytes: a launcher refuses strides of rows that are as large
LONGEST = 1 << 62
ELEMENT = {"bf16": 2, "f16": 2, "f32": 4, "i32": 4, "i64": 8, "bool": 1, "i8": 1}
SCALARS = ("i32", "f32")


def describe(text: str, plan: Plan | BackwardPlan) -> list[dict[str, Any]]:
    """The launches of a plan's host function, in order. HostCodeError: no form as data.

    text: the compiled module in MLIR's generic form.
    """
    code = _host(text, plan)
    own = [type_ for _, type_ in next(iter(code.values())).arguments]
    arguments: list[Any] = [
        _argument(name, kind, name in plan.aligned, read_type(type_))
        for (name, kind), type_ in zip(plan.arguments, own, strict=False)
    ]
    arguments += [Opaque("stream")] * (len(own) - len(arguments))
    try:
        return [_launch(x) for x in Run(code, arguments).run()]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise HostCodeError(f"code of another form than expected: {error!r}") from None


def _host(text: str, plan: Plan | BackwardPlan) -> dict[str, Block]:
    """The function that takes the arguments of the plan and the stream."""
    start = f"cutlass_{plan.name}_"
    named = [body for name, body in functions(text) if name.startswith(start)]
    if len(named) != 1:
        raise HostCodeError(f"{len(named)} host functions whose names begin with {start}")
    return blocks(named[0])


def _argument(name: str, kind: str, aligned: bool, type_: Type) -> Any:
    """An argument as the compiler passes it: {0: address, 1: {0: sizes, 1: strides}}."""
    if kind in SCALARS:
        return Opaque(name)
    dtype, rank, width = kind.split()
    shapes = [numbers.shape(name, i) for i in range(int(rank) - (int(width) > 0))]
    high = WIDEST // ELEMENT[dtype] if aligned else LONGEST
    strides = [numbers.stride(name, i, high) for i in range(int(rank) - 1)]
    leaves = [numbers.address(name, 0), *shapes, *strides]
    sizes = [8, *[4] * len(shapes), *[8] * len(strides)]
    if [leaf.size for _, leaf in type_.leaves()] != sizes:
        raise HostCodeError(f"{name} ({kind}) is passed in another form than expected")
    rest = iter(leaves)
    return _nested(type_, rest)


def _nested(type_: Type, leaves: Any) -> Any:
    if type_.kind != "struct":
        return next(leaves)
    return {i: _nested(part, leaves) for i, part in enumerate(type_.parts)}


def _launch(x: Launched) -> dict[str, Any]:
    pairs = [_parameter(memory) for memory in x.parameters]
    return {
        "symbol": x.symbol.removeprefix("kernels_"),
        "grid": [_plain(g.tree) for g in x.grid],
        "threads": x.threads,
        "shared": x.shared,
        "dependent": x.dependent,
        "cooperative": x.cooperative,
        "types": [types for types, _ in pairs],
        "parameters": [fields for _, fields in pairs],
    }


def _parameter(memory: Memory) -> tuple[str, list[Any]]:
    """(types of the fields, the fields) of one parameter."""
    leaves = list(memory.type.leaves())
    fields = [memory.load(offset, leaf) for offset, leaf in leaves]
    types = [_type(leaf, value) for (_, leaf), value in zip(leaves, fields, strict=True)]
    if len(types) == MAP_WORDS and memory.alignment == 64:
        types = ["tensormap"]
    return " ".join(types), [_field(value) for value in fields]


def _type(leaf: Type, value: Any) -> str:
    if isinstance(value, Number) and _is_address(value):
        return "ptr"
    name = {"int": "i", "float": "fp"}.get(leaf.kind, leaf.kind)
    return f"{name}{8 * leaf.size}"


def _is_address(value: Number) -> bool:
    return isinstance(value.tree, tuple) and value.tree[0] == numbers.ADDRESS


def _field(value: Any) -> Any:
    match value:
        case None:  # half of a tensor descriptor is not used, and left as it was
            return 0
        case Opaque(name=name):
            return ["argument", name]
        case Number():
            if not _is_address(value) and numbers.ADDRESS in _operations(value.tree):
                raise HostCodeError(f"a number made of an address: {value.tree}")
            return _plain(value.tree)
    raise HostCodeError(f"a parameter that was never set: {value}")


def _operations(tree: Any) -> set[str]:
    if not isinstance(tree, tuple):
        return set()
    return {tree[0]}.union(*(_operations(x) for x in tree[1:]))


def _plain(tree: Any) -> Any:
    return (
        [_plain(x) for x in tree]
        if isinstance(tree, Sequence) and not isinstance(tree, str)
        else tree
    )
