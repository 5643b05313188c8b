"""A host value's text and its tree mean the same number; steps print and keep what they do."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngen.aot.launcher.errors import SchemaError
from attngen.aot.launcher.prepare import Shape
from attngen.aot.launcher.values import names, number
from attngen.backend.triton.host import (
    Allocate,
    Descriptor,
    Launch,
    Let,
    Result,
    Return,
    Zeros,
    host_lines,
)
from attngen.backend.value import (
    ONE,
    Value,
    cdiv,
    common,
    largest,
    low_bit,
    power2,
    product,
    shape_of,
    smallest,
    stride_of,
    value,
    variable,
)

KNOWN = {"heads": 6, "tiles": 35}
TENSORS = {"q": Shape((3, 5, 7), (35, 7, 1), 2, None)}


class Tensor:
    shape = (3, 5, 7)

    def stride(self, axis):
        return (35, 7, 1)[axis]


LEAVES = st.one_of(
    st.integers(1, 40).map(value),
    st.sampled_from([variable("heads"), variable("tiles"), shape_of("q", 1), stride_of("q", 0)]),
)


def grown(inner):
    pairs = st.tuples(inner, inner)
    return st.one_of(
        pairs.map(lambda p: p[0] + p[1]),
        pairs.map(lambda p: p[0] * p[1]),
        pairs.map(lambda p: p[0] // largest(1, p[1])),
        pairs.map(lambda p: smallest(*p)),
        pairs.map(lambda p: common(*(largest(1, smallest(v, 99)) for v in p))),
        pairs.map(product),
        st.tuples(inner, st.integers(1, 64)).map(lambda p: cdiv(*p)),
        inner.map(lambda v: power2(largest(1, v))),
        inner.map(lambda v: low_bit(largest(1, v))),
        inner.map(lambda v: v - 1),
    )


def run(text):
    triton = SimpleNamespace(cdiv=lambda a, b: -(-a // b))
    return eval(text, {"triton": triton, "q": Tensor(), **KNOWN})  # our own text


@given(st.recursive(LEAVES, grown, max_leaves=12))
def test_text_and_tree_are_the_same_number(v):
    assert run(str(v)) == number(v.tree(), KNOWN, TENSORS)


def test_products_leave_ones_out():
    assert str(product([ONE, variable("heads"), ONE])) == "heads"
    assert product([]) == ONE
    assert str(cdiv(variable("n"), 64) * product([variable("a"), variable("b")])) == (
        "triton.cdiv(n, 64) * (a * b)"
    )


def test_an_operation_nobody_knows_is_refused():
    with pytest.raises(SchemaError, match="'system'"):
        number(["system", "ls"], {}, {})
    with pytest.raises(ValueError, match="no text"):
        str(Value("system", (variable("x"),)))


def test_names_whose_value_is_needed():
    tree = (variable("a") + Value("to", (variable("b"), "c")) + shape_of("d", 0)).tree()
    assert names(tree) == {"a", "b"}


def test_steps_print_and_keep_what_they_do():
    rows = variable("rows")
    descriptor = Descriptor("k", (shape_of("k", 0), value(64)), (stride_of("k", 0), ONE), (32, 64))
    launch = Launch("f", (rows,), (("k_tiles", descriptor), ("n", rows)), ("num_warps=4",))
    steps = [
        Let("rows", shape_of("q", 0), before="why", after="how"),
        Result("out", "q", (rows, value(64)), "torch.float32"),
        Allocate("d_k", "k", zero=True),
        launch,
        Return((variable("out"), Zeros("k", "q", scalar=True))),
    ]
    assert host_lines(steps) == [
        "# why",
        "rows = q.shape[0]  # how",
        "out = q.new_empty((rows, 64), dtype=torch.float32)",
        "d_k = torch.zeros(k.shape, dtype=k.dtype, device=k.device)",
        "k_tiles = TensorDescriptor(k, [k.shape[0], 64], [k.stride(0), 1], [32, 64])",
        "f[(rows,)](k_tiles, rows, num_warps=4)",
        "return out, torch.zeros((), dtype=torch.float32, device=q.device)",
    ]
    made = ["descriptor", "k", [["shape", "k", 0], 64], [["stride", "k", 0], 1], [32, 64]]
    assert [s.plan() for s in steps][1:4] == [
        ["array", "out", "q", ["rows", 64], "float32", False],
        ["array", "d_k", "k", None, None, True],
        ["launch", "f", ["rows"], [made, "rows"]],
    ]


def test_what_several_launches_want_alike_is_computed_once():
    rows, n = variable("rows"), variable("n")
    descriptor = Descriptor("k", (n, value(64)), (stride_of("k", 0), ONE), (32, 64))
    first, second = (
        Launch(name, (rows,), (("k_tiles", descriptor),), ("num_warps=4",)) for name in "fg"
    )
    same = [Let("n", shape_of("q", 0)), first, Let("n", shape_of("q", 0)), second]
    made = "k_tiles = TensorDescriptor(k, [n, 64], [k.stride(0), 1], [32, 64])"
    launches = [f"{name}[(rows,)](k_tiles, num_warps=4)" for name in "fg"]
    assert host_lines(same) == ["n = q.shape[0]", made, *launches]
    other = [Let("n", shape_of("q", 0)), first, Let("n", shape_of("q", 1)), second]
    lines = ["n = q.shape[0]", made, launches[0], "n = q.shape[1]", made, launches[1]]
    assert host_lines(other) == lines
