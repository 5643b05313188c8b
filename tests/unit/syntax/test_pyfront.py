"""`@attention` reads a function as the same program as the spec in the language."""

import math
from types import SimpleNamespace

import pytest

from attngen import SpecError, attention
from attngen.core.source import Source
from attngen.frontend import load
from attngen.ir.text import spec_text

CAP = 50.0
sizes = SimpleNamespace(window=512)
b = "a module's name that the language has too"


def program(function):
    return function.kernel().spec.attention


def same(function, text):
    """Compares the canonical texts: names, masks, formulas and declarations."""
    assert spec_text(program(function)) == spec_text(load(Source("t", text), {}))


STREAMS = """
  query q : half[B, Hq, Sq, D]
  key   k : half[B, Hkv, Skv, D]
  value v : half[B, Hkv, Skv, D]
"""


def test_same_program_as_the_spec():
    @attention
    def gemma(
        q: "query half[B, Hq, Sq, D]",
        k: "key half[B, Hkv, Skv, D]",
        v: "value half[B, Hkv, Skv, D]",
        window: "i32",
    ):
        """Text is skipped."""
        score = softcap(dot(q, k) * rsqrt(D), CAP)
        mask = causal and q_pos - kv_idx < window
        p = softmax(score)
        return sum(p * v), logsumexp(score)

    same(
        gemma,
        f"""attention gemma {{ {STREAMS} input window : i32
        score = softcap(dot(q, k) * rsqrt(D), 50.0)
        mask = causal and q_pos - kv_idx < window
        p = softmax(score)
        out = sum(p * v)
        return out, logsumexp(score) }}""",
    )


def test_operators_of_python():
    @attention
    def spec(q: "query half[B, H, S, D]", k: "key half[B, H, S, D]", v: "value half[B, H, S, D]"):
        score = -dot(q, k) / math.sqrt(4) if kv_idx > 3 else +(dot(q, k) ** 2)
        mask = ~(kv_idx > q_idx) & (0 <= q_idx - kv_idx < sizes.window) | (kv_idx // 4 % 2 == 0)
        out = sum(softmax(score) * v)

    # math.sqrt is a function of the language by its last name
    same(
        spec,
        """attention spec { query q : half[B, H, S, D] key k : half[B, H, S, D]
        value v : half[B, H, S, D]
        score = where(kv_idx > 3, -dot(q, k) / sqrt(4), dot(q, k) ** 2)
        mask = not (kv_idx > q_idx) and (0 <= q_idx - kv_idx and q_idx - kv_idx < 512)
            or kv_idx // 4 % 2 == 0
        out = sum(softmax(score) * v) }""",
    )


def test_views_elements_facts_and_parameters():
    @attention
    def spec(
        q: "query half[B, Hq, S, 576]",
        k: "key half[B, 1, S, 576]",
        doc: "input i32[B, S] sorted",
        scale=0.125,
    ):
        v: "value" = k[:512]
        mask = doc[b, q_idx] == doc[b, kv_idx]
        score = dot(q, k) * scale

    same(
        spec,
        """attention spec { param scale = 0.125
        query q : half[B, Hq, S, 576] key k : half[B, 1, S, 576] input doc : i32[B, S] sorted
        value v = k[:512]
        mask = doc[b, q_idx] == doc[b, kv_idx]
        score = dot(q, k) * scale }""",
    )


def slope(head, base=2.0):
    return base ** -(head + 1)


def test_helpers_are_written_out():
    def far(a):
        return a - q_idx

    @attention
    def spec(q: "query half[B, H, S, D]", k: "key half[B, H, S, D]", v: "value half[B, H, S, D]"):
        def near(a):
            return a * 1.5

        score = near(dot(q, k)) + slope(h) * far(kv_idx) + slope(head=h, base=3.0)

    text = spec_text(program(spec))
    assert "1.5 * dot(q, k) + 2.0 ** (-(h + 1)) * (kv_idx - q_idx) + 3.0 ** (-(h + 1))" in text


def test_a_closure_makes_each_its_own_kernel():
    def make(width):
        @attention
        def spec(
            q: "query half[B, H, S, D]", k: "key half[B, H, S, D]", v: "value half[B, H, S, D]"
        ):
            score = dot(q, k)
            mask = q_idx - kv_idx < width

        return spec

    narrow, wide = make(4), make(9)
    assert "< 4" in narrow.spec
    assert "< 9" in wide.spec


def test_a_changed_number_makes_another_kernel(monkeypatch):
    @attention
    def spec(q: "query half[B, H, S, D]", k: "key half[B, H, S, D]", v: "value half[B, H, S, D]"):
        score = dot(q, k) * CAP

    first = spec.kernel()
    assert spec.kernel() is first
    monkeypatch.setitem(globals(), "CAP", 25.0)
    assert "25.0 * dot(q, k)" in spec.spec
    monkeypatch.setitem(globals(), "CAP", 50.0)
    assert spec.kernel() is first


def test_parameters_are_set_by_name():
    @attention(window=3)
    def spec(
        q: "query half[B, H, S, D]",
        k: "key half[B, H, S, D]",
        v: "value half[B, H, S, D]",
        window=128,
    ):
        score = dot(q, k)
        mask = q_idx - kv_idx < window

    assert "< 3" in spec.spec
    assert "< 7" in spec.set(window=7).spec
    assert spec.kernel(window=7) is spec.kernel(window=7)


def test_spans_point_into_this_file():
    @attention
    def spec(q: "query half[B, H, S, D]", k: "key half[B, H, S, D]", v: "value half[B, H, S, D]"):
        score = dot(q, kk)

    with pytest.raises(SpecError) as error:
        spec.kernel()
    (diagnostic,) = error.value.diagnostics
    line, column = diagnostic.span.source.position(diagnostic.span.start)
    assert diagnostic.span.source.name.endswith("test_pyfront.py")
    assert diagnostic.span.source.line(line)[column - 1 :].startswith("kk)")


def test_the_result_equals_the_reference():
    torch = pytest.importorskip("torch")

    @attention
    def spec(q: "query half[B, H, S, D]", k: "key half[B, H, S, D]", v: "value half[B, H, S, D]"):
        score = dot(q, k) * rsqrt(D)
        mask = causal
        return sum(softmax(score) * v)

    q, k, v = (torch.randn(1, 2, 33, 16) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(spec(q, v=v, k=k), expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(spec.reference(q, k, v).float(), expected, atol=2e-5, rtol=1e-4)
