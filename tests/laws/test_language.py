"""Laws of the language: reading undoes printing, and no text makes anything but a SpecError."""

import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from attngen.core.diagnostics import SpecError
from attngen.core.source import Source
from attngen.frontend import load
from attngen.ir.attention import Attention
from attngen.ir.text import formula, spec_text
from attngen.ir.verify import verify
from attngen.syntax import parse

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.attn"))
TEXTS = [p.read_text(encoding="utf-8") for p in EXAMPLES]
HEADER = """
attention made {
  param cap = 30.0
  param window = 77
  query q, r : half[B, Hq, Sq, D]
  key   k : half[B, Hkv, Skv, D]
  value v : half[B, Hkv, Skv, D]
  value w = k[:16]
  input slope : f32[Hq]
  input scale : f32[B, Hkv, Skv]
  input doc   : i32[B, Sq]
  input table : f32[Hq, 129]
  input limit : i32
  input g     : half[B, Hq, Sq, D]
"""


def check_printing(text):
    program = load(Source("<text>", text))
    printed = spec_text(program)
    again = load(Source("<printed>", printed))
    assert again == program, printed
    settled = spec_text(again)  # names of results may move between the first two texts
    assert spec_text(load(Source("<settled>", settled))) == settled
    if isinstance(program, Attention):
        verify(program)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_survive_printing(path):
    check_printing(path.read_text(encoding="utf-8"))


# Well-typed expressions, by kind, written with needless brackets: the printer must find the fewest.
WHOLE = st.recursive(
    st.sampled_from(["q_idx", "kv_idx", "q_pos", "q_len", "kv_len", "h", "limit", "window", "D"])
    | st.integers(0, 300).map(str)
    | st.just("doc[b, q_idx]"),
    lambda x: st.one_of(
        st.tuples(x, st.sampled_from(["+", "-", "*"]), x).map(lambda t: f"({' '.join(t)})"),
        st.tuples(x, st.sampled_from(["//", "%"]), st.integers(1, 64)).map(
            lambda t: f"({t[0]}) {t[1]} {t[2]}"
        ),
        st.tuples(st.sampled_from(["min", "max"]), x, x).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        x.map(lambda t: f"-({t})"),
        x.map(lambda t: f"abs({t})"),
    ),
    max_leaves=5,
)
TRUTH = st.recursive(
    st.tuples(WHOLE, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), WHOLE).map(" ".join)
    | st.just("causal"),
    lambda x: st.one_of(
        st.tuples(x, st.sampled_from(["and", "or"]), x).map(lambda t: f"({' '.join(t)})"),
        x.map(lambda t: f"not ({t})"),
    ),
    max_leaves=4,
)
REAL = st.recursive(
    st.sampled_from(
        [
            *("dot(q, k)", "dot(r, k)", "slope[h]", "scale", "cap", "rsqrt(D)", "0.5", "2", "1.0"),
            *("scale[b, h_kv, kv_idx]", "table[h, min(kv_idx, 128)]", "1e-3", "3.0", "inf"),
        ]
    )
    | WHOLE,
    lambda x: st.one_of(
        st.tuples(x, st.sampled_from("+-*/"), x).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
        st.tuples(st.sampled_from(["exp", "tanh", "silu", "floor", "f32", "bf16"]), x).map(
            lambda t: f"{t[0]}({t[1]})"
        ),
        st.tuples(x, st.sampled_from(["2", "3", "0.5", "-1", "2.5"])).map(
            lambda t: f"({t[0]}) ** {t[1]}"
        ),
        st.tuples(TRUTH, x, x).map(lambda t: f"where({', '.join(t)})"),
        st.tuples(x, x).map(lambda t: f"softcap({t[0]}, 20.0) - max({t[0]}, {t[1]})"),
        x.map(lambda t: f"-({t})"),
    ),
    max_leaves=6,
)
SCORE = REAL.map(lambda t: f"dot(q, k) + ({t})")
REDUCED = st.recursive(
    st.sampled_from(
        [
            "sum(softmax(score) * v)",
            "sum(p * u * v)",
            "sum(p * v) * sum(p * u)",
            "sum(dropout(p, 0.25, 7) * v)",
            "g[b, h, q_idx] * logsumexp(score, sink = slope[h])",
            "max(score) * g",
            "sum(sigmoid(u) * v)",
        ]
    ),
    lambda x: st.one_of(
        st.tuples(x, st.sampled_from("+-*/"), x).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
        x.map(lambda t: f"slope[h] * ({t})"),
        x.map(lambda t: f"-({t})"),
    ),
    max_leaves=4,
)
EXTRA = st.sampled_from(
    [
        "",
        "lse = logsumexp(score)\n",
        "gate = sigmoid(g)\n",
        "lse = logsumexp(score)\ni = argmin(u)\nreturn out, i, lse, -lse\n",
        "far, at = topk(-u, 4)\nreturn out, -far, at\n",
        "near, at = argmax(score)\nreturn near + 1, out, at\n",
        "target sm_90, gfx942\nschedule { block_q = 64 loads = pointer }\n",
    ]
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(SCORE, TRUTH, REDUCED, EXTRA)
@example("dot(q, k)", "0 < doc[b, q_idx] // 2 * -doc[b, q_idx]", "sum(softmax(score) * v)", "")
def test_made_specs_survive_printing(score, mask, out, extra):
    text = f"{HEADER}score = {score}\nmask = {mask}\np = softmax(score)\nu = dot(r, k)\n"
    text += f"out = {out}\n{extra}}}\n"
    try:
        load(Source("<text>", text))
    except SpecError as error:
        codes = {d.code for d in error.diagnostics}
        assert codes <= {"E123", "E203"}, error.render()  # a constant that is 0, NaN or never true
        return
    check_printing(text)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(REAL)
def test_formula_uses_the_fewest_brackets(score):
    text = f"{HEADER}score = dot(q, k) + ({score})\n}}\n"
    try:
        program = load(Source("<text>", text))
    except SpecError:
        return
    node = next(e for e, name in program.names.items() if name == "score")
    line = formula(node)
    assert "\n" not in line
    again = load(Source("<text>", f"{HEADER}score = {line}\n}}\n"))
    assert again.outputs == program.outputs
    for i, c in enumerate(line):  # a bracket that could go would leave the same program
        if c == "(" and (i == 0 or line[i - 1] in " (-"):
            assert _without(line, i) != node, line


def _without(line, start):
    depth = 0
    for stop in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[stop], 0)
        if depth == 0:
            break
    shorter = line[:start] + line[start + 1 : stop] + line[stop + 1 :]
    try:
        program = load(Source("<text>", f"{HEADER}score = {shorter}\n}}\n"))
    except SpecError:
        return None
    return next((e for e, name in program.names.items() if name == "score"), None)


def only_spec_errors(text):
    source = Source("<text>", text)
    try:
        parse(source)
        assert load(source).outputs
    except SpecError as error:
        assert error.diagnostics
        assert error.render()


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200))
def test_any_text_gives_a_program_or_an_error(text):
    only_spec_errors(text)


WORDS = sorted({w for t in TEXTS for w in t.replace("(", " ( ").replace(",", " , ").split()})


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=40))
def test_any_words_give_a_program_or_an_error(words):
    only_spec_errors(
        "attention a {\n query q : half[S, D]\n key k : half[S, D]\n" + " ".join(words)
    )


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_examples_give_a_program_or_an_error(data):
    text = data.draw(st.sampled_from(TEXTS))
    for _ in range(data.draw(st.integers(1, 3))):
        words = text.split(" ")
        at = data.draw(st.integers(0, len(words) - 1))
        new = data.draw(st.sampled_from(WORDS) | st.text(string.printable, max_size=3))
        words[at : at + data.draw(st.integers(0, 2))] = [new]
        text = " ".join(words)
    only_spec_errors(text)
