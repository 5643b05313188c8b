import dataclasses
from pathlib import Path

import pytest

from attngen.core.diagnostics import SpecError
from attngen.core.source import Source
from attngen.frontend import load
from attngen.ir import build
from attngen.ir.attention import Attention
from attngen.ir.expr import Const, Dot, Index, Load, MatMul, Row, Side, Size, Softmax, Sum, Top
from attngen.ir.recurrence import Recurrence
from attngen.ir.spell import CAUSAL
from attngen.ir.verify import InvalidProgram, verify
from attngen.ir.walk import walk

EXAMPLES = Path(__file__).parents[3] / "examples"
HEAD = """attention a {
  query q : half[B, Hq, Sq, D]
  key   k : half[B, Hkv, Skv, D]
  value v : half[B, Hkv, Skv, D]
"""


def example(name, **params):
    path = EXAMPLES / f"{name}.attn"
    return load(Source(path.name, path.read_text(encoding="utf-8")), params)


def made(body, **params):
    return load(Source("<text>", HEAD + body + "\n}"), params)


def nodes(program, kind):
    return [n for _, e, *_ in program.outputs for n in walk(e) if isinstance(n, kind)]


def test_all_examples_load():
    names = sorted(p.stem for p in EXAMPLES.glob("*.attn"))
    programs = [example(n) for n in names]
    assert len(programs) == 25
    assert sum(isinstance(p, Recurrence) for p in programs) == 6
    for program in programs:
        if isinstance(program, Attention):
            verify(program)


def test_flash():
    flash = example("flash")
    q, k = Row("q", Side.QUERY, "D", 0), Row("k", Side.KEY, "D", 0)
    score = build.mul(Dot(q, k), build.unary("rsqrt", Size("D")))
    v = Row("v", Side.KEY, "Dv", 0)
    assert flash.outputs[0] == ("out", Sum(build.mul(Softmax(score, None), v)))
    assert [n for n, _ in flash.outputs] == ["out", "lse"]
    assert flash.mask is CAUSAL
    assert flash.names[score] == "score"
    assert flash.spans[score].text == "dot(q, k) * rsqrt(D)"
    assert not flash.same_length


def test_default_out_and_gate():
    gated = example("sinks_gated")
    assert [n for n, _ in gated.outputs] == ["out"]
    rows = {r.tensor: r.side for r in nodes(gated, Row)}
    assert rows["g"] is Side.QUERY


def test_view_reads_its_parent():
    mla = example("mla")
    assert mla.tensor("v").view == ("k", 0, 512)
    assert Row("k", Side.KEY, 512, 0) in nodes(mla, Row)


def test_alias_of_a_whole_stream():
    gram = example("gram")
    assert {r for _, e in gram.updates for r in walk(e) if isinstance(r, Row)} == {
        Row("x", Side.TIME, "D", 0)
    }
    assert [(n, c) for n, _, c in gram.outputs] == [("M", 1)]


def test_same_length_needs_the_same_storage():
    assert example("alibi_documents").same_length
    assert not example("varlen").same_length


def test_argmin_is_the_negated_largest():
    boruvka = example("boruvka")
    values, index = (e for _, e in boruvka.outputs)
    assert isinstance(index, Top) and index.part == "indices"
    assert values is build.neg(Top(index.score, 1, "values"))
    assert isinstance(example("kmeans_assign").outputs[0][1], Top)


def test_result_names():
    assert [n for n, _ in example("knn").outputs] == ["distance", "index"]


def test_recurrence_counts_updates():
    net = example("gated_delta_net")
    assert [n for n, _ in net.updates] == ["M", "M"]
    assert [(n, c) for n, _, c in net.outputs] == [("out", 2), ("M", 2)]
    assert any(isinstance(n, MatMul) for n in walk(net.updates[1][1]))
    assert Load("g", (Index("b"), Index("t"), Index("h")), "float") in list(walk(net.updates[0][1]))


def test_params_fold_and_can_be_set():
    def window(program):
        return [n.value for n in walk(program.mask) if isinstance(n, Const)]

    assert 4096 in window(example("gemma2"))
    assert 64 in window(example("gemma2", window=64))
    assert example("gemma2", cap=30).params == (("window", 4096), ("cap", 30.0))


def test_feature_sizes_can_be_set():
    program = example("flash", D=64)
    assert not nodes(program, Size)
    assert Row("q", Side.QUERY, 64, 0) in nodes(program, Row)


@pytest.mark.parametrize(
    "params",
    [{"nope": 1}, {"window": 1.5}, {"window": True}, {"cap": float("nan")}, {"D": 0}, {"D": 2.0}],
)
def test_bad_overrides(params):
    with pytest.raises(SpecError) as error:
        example("gemma2", **params)
    assert error.value.diagnostics[0].code == "E118"


def test_bare_names_take_the_only_reading():
    program = made("input bias : f32[B, Hkv, Skv]\n score = dot(q, k) + bias")
    index = (Index("b"), Index("h_kv"), Index("kv_idx"))
    assert Load("bias", index, "float") in nodes(program, Load)


def test_up_to_ten_mistakes_in_one_run():
    body = "\n".join(f"x{i} = missing{i}" for i in range(12))
    with pytest.raises(SpecError) as error:
        made("score = dot(q, k)\n" + body)
    assert error.value.render().count("error[E101]") == 10
    assert "and 2 more" in error.value.render()


def test_a_mistake_is_reported_once():
    with pytest.raises(SpecError) as error:
        made("score = dot(q, kk)\np = softmax(score)\nout = sum(p * v)\nreturn out")
    assert len(error.value.diagnostics) == 1


def test_dropout_is_a_choice_by_position():
    program = example("dropout", rate=0.5)
    text = {type(n).__name__ for n in nodes(program, object)}
    assert {"Uniform", "Where"} <= text
    assert not {"Uniform"} & {type(n).__name__ for n in nodes(example("dropout", rate=0), object)}


def test_verify_finds_broken_programs():
    program = example("flash")
    for field, value in {
        "outputs": (("out", Row("k", Side.KEY, "D", 0)),),
        "mask": Const(1),
        "tensors": program.tensors[:1],
    }.items():
        with pytest.raises(InvalidProgram):
            verify(dataclasses.replace(program, **{field: value}))
