"""Or of ands: what is split, merged and dropped."""

import time

from attngen.ir.expr import Binary, Index, Load
from attngen.ir.index import AnyOf, Opaque, number, var
from attngen.ir.index_build import absolute, both, either, le, lt, maximum, minimum, negate, pick
from attngen.passes.clauses import MOST, Expansion
from attngen.passes.facts import Facts, side_facts

Q, K, W, G, N = (var(name) for name in ("q", "k", "w", "g", "kv_len"))
FLOAT = Opaque(Binary("lt", Load("x", (Index("q_idx"),), "float"), Load("y", (), "float")))


def clauses(f):
    facts = Facts((*side_facts("q", N), *side_facts("k", N)))
    return [str(c.formula) for c in Expansion(facts).clauses(f)]


def test_contradictions_vanish():
    assert clauses(both(lt(K, Q), lt(Q, K))) == []
    assert clauses(lt(N, K)) == []
    assert clauses(both(FLOAT, negate(FLOAT))) == []


def test_what_always_holds_leaves_an_empty_clause():
    assert clauses(le(K, N)) == ["True"]
    assert clauses(either(lt(K, Q), le(Q, K), lt(W, number(0)))) != []


def test_implied_parts_vanish():
    assert clauses(both(le(K, Q), le(K, Q + 5))) == ["k <= q"]
    assert clauses(either(le(K, Q), le(K, Q + 5))) == ["k <= q + 5"]


def test_min_max_where_split():
    assert clauses(le(maximum(Q, W), K)) == ["(q <= k and w <= k)"]
    assert clauses(le(minimum(Q, W), K)) == ["q <= k", "w <= k"]
    assert clauses(le(K, pick(le(W, G), Q, W))) == ["(w <= g and k <= q)", "(g < w and k <= w)"]


def test_opaque_parts_stay_loose():
    (clause,) = Expansion(Facts(())).clauses(both(le(K, Q), FLOAT))
    assert clause.loose == (FLOAT,)
    assert [str(c) for c in clause.conditions] == ["k <= q"]


def test_large_formulas_stay_whole_and_quick():
    wide = either(*(both(le(number(3 * i), K), le(K, 3 * i + 1)) for i in range(MOST + 1)))
    (clause,) = Expansion(Facts(())).clauses(wide)
    assert clause.loose == (wide,) and isinstance(wide, AnyOf)
    deep = Q
    for i in range(2):
        deep = absolute(deep - (i + 1) * K * W) + absolute(deep + Q * G)
    begin = time.process_time()
    Expansion(Facts(())).clauses(both(*(le(deep, i * K) for i in range(2))))
    assert time.process_time() - begin < 3
