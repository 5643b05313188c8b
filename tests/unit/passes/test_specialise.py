"""Sizes and dtypes become known, and nothing symbolic is left."""

import pytest

from attngen.core.diagnostics import SpecError
from attngen.core.dtype import Dtype
from attngen.core.source import Source, Span
from attngen.ir import build
from attngen.ir.attention import Attention, Axis, Sparsity, Tensor
from attngen.ir.expr import Cast, Const, Dot, Row, Side, Size, Softmax, Sum
from attngen.ir.walk import walk
from attngen.passes.specialise import specialise

SOURCE = Source("a.attn", "query q : half[B, H, S, D]")
AXES = (Axis("B", "batch"), Axis("H", "head"), Axis("S", "position"))


def program(**more):
    q, k = Row("q", Side.QUERY, "D", 0), Row("k", Side.KEY, "D", 0)
    v = Row("v", Side.KEY, "Dv", 0)
    score = build.mul(Dot(q, k), build.unary("rsqrt", Size("D")))
    out = Sum(build.mul(Cast(Softmax(score, None), "half"), v))
    span = Span(SOURCE, 0, 5)
    tensors = tuple(
        Tensor(name, role, Dtype.HALF, (*AXES, Axis(width, "feature")), span=span)
        for name, role, width in (("q", "query", "D"), ("k", "key", "D"), ("v", "value", "Dv"))
    )
    bias = Tensor("bias", "input", Dtype.F32, (Axis("H", "head"), Axis("129", "feature", 129)))
    names, spans = {score: "score"}, {score: span}
    outputs = (("out", out),)
    return Attention("t", (*tensors, bias), None, outputs, names=names, spans=spans, **more)


def test_nothing_symbolic_is_left():
    done = specialise(program(), {"D": 64, "Dv": 80, "unused": 3}, Dtype.BF16)
    nodes = list(walk(*(e for _, e in done.outputs)))
    assert not [e for e in nodes if isinstance(e, Size)]
    assert {e.width for e in nodes if isinstance(e, Row)} == {64, 80}
    assert [e.dtype for e in nodes if isinstance(e, Cast)] == ["bf16"]
    assert [t.dtype for t in done.tensors] == [Dtype.BF16] * 3 + [Dtype.F32]
    assert [t.axes[-1].size for t in done.tensors] == [64, 64, 80, 129]
    assert done.tensors[0].axes[:3] == AXES


def test_constants_are_computed_again():
    done = specialise(program(), {"D": 64, "Dv": 64}, Dtype.F16)
    score = next(iter(done.names))
    assert score.a is Const(0.125)
    assert done.names[score] == "score"
    assert done.spans[score].start == 0


def test_the_score_of_a_sparsity_is_specialised_too():
    sparse = Sparsity("top_blocks", (64, 64), score=build.mul(Size("D"), Size("D")))
    done = specialise(program(sparsity=sparse), {"D": 8, "Dv": 8}, Dtype.F16)
    assert done.sparsity.score is Const(64)


def test_missing_sizes_are_named_all_at_once():
    with pytest.raises(SpecError) as caught:
        specialise(program(), {}, Dtype.F16)
    first, second = caught.value.diagnostics
    assert (first.code, second.code) == ("E320", "E320")
    assert "`D`" in first.message
    assert "--set D=128" in first.help
    assert "--set Dv=128" in second.help
    assert first.span.text == "query"


def test_a_size_below_one_is_refused():
    with pytest.raises(SpecError) as caught:
        specialise(program(), {"D": 0, "Dv": 16}, Dtype.F16)
    assert [d.code for d in caught.value.diagnostics] == ["E321"]
