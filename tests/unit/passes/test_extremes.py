"""Extremes over a box: expected expressions, and soundness against enumeration."""

import pytest

from attngen.ir.index import Element, FirstGe, number, of, var
from attngen.ir.index_build import floor_div, le, maximum, minimum, modulo, pick
from attngen.ir.index_eval import evaluate
from attngen.passes.extremes import Extremes, row_box, tile_box
from attngen.passes.facts import Facts, side_facts

Q, K, B, S, W, N = (var(name) for name in ("q", "k", "b", "s", "w", "kv_len"))
FACTS = Facts((*side_facts("q", N), *side_facts("k", N)), (S,))


def row(name, i, length=None, bits=False):
    return of(Element(name, (B, i), length, bits))


DOC = row("doc", Q, N)
CASES = {
    "q": (Q, "q0", "q1 - 1"),
    "minus": (W - 2 * Q, "w - 2 * q1 + 2", "w - 2 * q0"),
    "quotient": (floor_div(Q, S), "(q0 // s)", "((q1 - 1) // s)"),
    "unknown divisor": (floor_div(Q, W), "None", "None"),
    "sorted": (DOC, "doc[b, q0]", "doc[b, q1 - 1]"),
    "unsorted": (row("x", Q), "tile_min(x[b], q0, q1)", "tile_max(x[b], q0, q1)"),
    "flag": (of(Element("f", (Q, Q), None, True)), "0", "1"),
    "unsorted twice": (of(Element("x", (Q, Q))), "None", "None"),
    "run start": (
        of(FirstGe(DOC.term, DOC, N)),
        "run_start(doc[b], q0)",
        "run_start(doc[b], q1 - 1)",
    ),
    "row moves": (of(FirstGe(Element("x", (Q, K), N), W, N)), "None", "None"),
    "max with unknown": (maximum(Q, floor_div(Q, W)), "q0", "None"),
    "min with unknown": (minimum(Q, floor_div(Q, W)), "None", "q1 - 1"),
    "unknown sign": (W * Q, "min(q0 * w, q1 * w - w)", "max(q0 * w, q1 * w - w)"),
}


@pytest.mark.parametrize("name", CASES)
def test_extremes_over_a_tile(name):
    p, least, greatest = CASES[name]
    over = Extremes(FACTS, tile_box("q"))
    assert (str(over.least(p)), str(over.greatest(p))) == (least, greatest)


def test_one_row_is_exact():
    p = pick(le(Q, W), Q * 2, W - Q)
    assert Extremes(FACTS, row_box("q")).interval(p) == (p, p)


@pytest.mark.parametrize("s", [1, 3, 7])
@pytest.mark.parametrize("w", [-3, 0, 5])
def test_extremes_hold_every_value(s, w):
    polys = [modulo(Q, S), modulo(3 * Q - K, number(4)), floor_div(Q - K, S) * 2 - Q, W * Q - K]
    polys += [Q * K, pick(le(Q, W), 2 * Q, W - K), minimum(Q, 7 - K) - maximum(K, W)]
    over = Extremes(FACTS, tile_box("q", "k"))
    for q0, q1, k0, k1 in ((0, 1, 0, 1), (2, 9, 3, 5), (4, 6, 0, 11)):
        env = {"q0": q0, "q1": q1, "k0": k0, "k1": k1, "s": s, "w": w, "kv_len": 12}
        for p in polys:
            ends = [evaluate(end, env) for end in over.interval(p)]
            values = [
                evaluate(p, env | {"q": q, "k": k}) for q in range(q0, q1) for k in range(k0, k1)
            ]
            assert ends[0] <= min(values) <= max(values) <= ends[1], str(p)
