"""What row expressions give on a row without keys."""

import math

import pytest

from attngen.ir import build
from attngen.ir.expr import Const, Reduced
from attngen.passes.outputs import empty_value, needs_guard
from tests.laws.online_formulas import F, H, exp, load, op, q, sigmoid, tanh, where

LSE = F(Reduced("lse", 0, (), None))
M = F(Reduced("moment", 0, (LSE.e,), 8))
BEST = F(Reduced("values", 0, (), None))
WHERE = F(Reduced("indices", 0, (), None))
A = load("a", H)


@pytest.mark.parametrize(
    ("e", "value"),
    [
        (M, 0.0),
        (LSE, -math.inf),
        (WHERE, -1.0),
        (1 - M, 1.0),
        (M * sigmoid(q), 0.0),
        (M * A + M, 0.0),
        (M + A, None),
        (exp(LSE) * M, 0.0),
        (exp(-LSE) * M, math.nan),
        (LSE - BEST, math.nan),
        (A * LSE, math.nan),
        (tanh(LSE), -1.0),
        (op("logaddexp", LSE, A), None),
        (M / M, math.nan),
        (where(op("eq", LSE, -math.inf), 0.0, 5.0), 0.0),
        (where(A < 0.0, M, 2 * M), 0.0),
        (op("max", LSE, 3.0), 3.0),
    ],
)
def test_value_on_a_row_without_keys(e, value):
    found = empty_value(e.e)
    assert found == value or (value is not None and math.isnan(value) and math.isnan(found))


def test_only_certain_zeros_need_no_guard():
    assert not needs_guard(M.e)
    assert needs_guard((M + A).e)
    assert needs_guard((exp(-LSE) * M).e)
    assert needs_guard(build.add(Const(1), M.e))
