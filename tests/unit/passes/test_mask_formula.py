"""Value expressions -> formulas."""

import pytest

from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Axis, Tensor
from attngen.ir.build import binary, const, unary, where
from attngen.ir.expr import Cast, Index, Load
from attngen.ir.index import FALSE, TRUE, Opaque
from attngen.passes.mask_formula import mask_formula

Q, K, B = Index("q_idx"), Index("kv_idx"), Index("b")
CAUSAL = binary("le", K, Index("q_pos"))
FLAG, X = Load("flag", (), "bool"), Load("x", (K,), "float")


def spec(mask, same_length=True, inputs=()):
    batch, width = Axis("B", "batch"), Axis("D", "feature")
    q = Tensor("q", "query", Dtype.F16, (batch, Axis("Sq", "position"), width))
    k = Tensor("k", "key", Dtype.F16, (batch, Axis("Skv", "position"), width))
    return Attention("test", (q, k, *inputs), mask, (), same_length=same_length)


def text(mask, **options):
    return str(mask_formula(spec(mask, **options)))


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, "True"),
        (const(False), "False"),
        (CAUSAL, "k <= q"),
        (unary("not", CAUSAL), "q < k"),
        (binary("eq", Q, K), "(q == k)"),
        (binary("ne", Q, K), "(k < q or q < k)"),
        (binary("eq", FLAG, CAUSAL), "((flag and k <= q) or (not flag and q < k))"),
        (binary("ne", FLAG, CAUSAL), "((flag and q < k) or (not flag and k <= q))"),
        (where(FLAG, CAUSAL, const(True)), "((flag and k <= q) or not flag)"),
        (binary("lt", binary("mul", FLAG, K), Q), "flag * k < q"),
        (binary("lt", unary("abs", binary("sub", Q, K)), const(3)), "max(q - k, k - q) <= 2"),
        (binary("lt", K, where(CAUSAL, Q, const(5))), "k < (q if k <= q else 5)"),
        (binary("lt", Cast(K, "i32"), Q), "k < q"),
        (Load("full", (B, Q, K), "bool"), "full[b, q, k]"),
        (binary("lt", binary("mod", K, const(-4)), Q), "0 < ((-k) % 4) + q"),
    ],
)
def test_formula(mask, expected):
    assert text(mask) == expected


def test_lengths():
    assert text(CAUSAL, same_length=False) == "k + q_len <= kv_len + q"
    assert text(binary("lt", K, Index("q_len"))) == "k < kv_len"


@pytest.mark.parametrize(
    "mask",
    [
        binary("lt", X, const(0.5)),
        binary("lt", K, where(binary("lt", X, const(0.5)), Q, const(5))),
        binary("lt", K, binary("floordiv", Q, const(0))),
        binary("lt", K, Cast(X, "i32")),
        binary("lt", Cast(K, "i8"), Q),
        binary("lt", K, binary("mul", const(0.5), Q)),
    ],
)
def test_what_is_no_integer_comparison_stays_whole(mask):
    f = mask_formula(spec(unary("not", mask)))
    assert f is Opaque(mask, True)


def test_sorted_rows_carry_the_length_of_their_axis():
    def length(axis, *, same_length=False):
        doc = Tensor("doc", "input", Dtype.I32, (Axis("B", "batch"), axis), sorted=True)
        mask = binary("le", Load("doc", (B, K), "int"), Q)
        f = mask_formula(spec(mask, same_length, (doc,)))
        return str(f.poly.terms[0][0][0].length)

    assert length(Axis("Skv", "position")) == "kv_len"
    assert length(Axis("Sq", "position")) == "q_len"
    assert length(Axis("Sq", "position"), same_length=True) == "kv_len"
    assert length(Axis("T", "position")) == "None"  # of unknown length: not used as sorted


def test_a_sum_too_large_stays_whole():
    deep = Q
    for _ in range(20):
        deep = binary("add", unary("abs", binary("sub", deep, K)), unary("abs", deep))
    mask = binary("lt", deep, const(3))
    assert mask_formula(spec(mask)) is Opaque(mask)


def test_constants_fold():
    assert mask_formula(spec(binary("or", CAUSAL, binary("lt", Q, Q)))) is mask_formula(
        spec(CAUSAL)
    )
    assert mask_formula(spec(binary("le", Q, Q))) is TRUE
    assert mask_formula(spec(binary("lt", Q, Q))) is FALSE
