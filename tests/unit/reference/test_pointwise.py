import math

import pytest
import torch

from attngen.ir.expr import ARITHMETIC, COMPARE, LOGIC, UNARY
from attngen.reference import pointwise

D = torch.float64


def test_every_operator_of_the_language_is_there():
    x, y = torch.tensor([0.5], dtype=D), torch.tensor([2.0], dtype=D)
    for op in UNARY:
        pointwise.unary(op, x > 1 if op == "not" else x, D)
    for op in (*ARITHMETIC, *COMPARE, *LOGIC):
        pointwise.binary(op, x, y, D)


@pytest.mark.parametrize("op,want", [("floordiv", [-3, 2, 0]), ("mod", [1, 1, 0])])
def test_whole_division_rounds_down(op, want):
    a, b = torch.tensor([-5, 5, 5]), torch.tensor([2, 2, 0])
    assert pointwise.binary(op, a, b, D).tolist() == want


def test_softplus_and_logaddexp_are_exact_far_out():
    x = torch.tensor([-800.0, -40.0, 30.0, 800.0], dtype=D)
    want = [0.0, math.log1p(math.exp(-40)), 30 + math.log1p(math.exp(-30)), 800.0]
    torch.testing.assert_close(pointwise.unary("softplus", x, D), torch.tensor(want, dtype=D))
    low = torch.tensor([-math.inf], dtype=D, requires_grad=True)
    both = pointwise.binary("logaddexp", low, low, D)
    assert both.item() == -math.inf
    assert not torch.isnan(torch.autograd.grad(both.sum(), low)[0]).any()


@pytest.mark.parametrize("op", ["sqrt", "rsqrt", "log", "log2", "recip", "exp"])
def test_the_branch_not_taken_sends_no_nan(op):
    x = torch.tensor([-1.0, 0.0, math.inf, math.nan, 4.0], dtype=D, requires_grad=True)
    taken = torch.tensor([False, False, False, False, True])
    y = pointwise.where(taken, pointwise.unary(op, x, D), torch.zeros_like(x), D)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert (grad[:4] == 0).all() and torch.isfinite(grad[4]) and grad[4] != 0


def test_casts():
    x = torch.tensor([1.00390625, -2.7, 300.0], dtype=D)
    assert pointwise.cast(x, "bf16", D).tolist() == [1.0, -2.703125, 300.0]
    assert pointwise.cast(x, "f32", D).equal(x)
    assert pointwise.cast(x, "i32", D).tolist() == [1, -2, 300]
    assert pointwise.cast(x, "i8", D).tolist() == [1, -2, 44]
    assert pointwise.cast(x, "bool", D).all()


def test_gradients_of_smooth_functions():
    x = torch.linspace(0.1, 2, 7, dtype=D, requires_grad=True)
    for op in ("exp", "tanh", "sigmoid", "silu", "softplus", "sin", "rsqrt", "recip", "log2"):
        assert torch.autograd.gradcheck(lambda t, op=op: pointwise.unary(op, t, D), (x,))
    one = torch.tensor([0.7], dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: pointwise.binary("mul", a, b, D), (x, one))
