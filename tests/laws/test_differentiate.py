"""The backward of a plan, run tile by tile from the saved rows, is autograd of the formula."""

import pytest
import torch

from attngen.passes.differentiate import differentiate
from attngen.passes.online import online
from tests.laws.backward_executor import backward, forward_rows
from tests.laws.online_formulas import attention
from tests.laws.online_random import formula
from tests.laws.online_specs import SPECS
from tests.laws.online_values import dense

BLOCKS = [(16, 16), (5, 8), (19, 3)]


def check(outputs, mask, data, blocks=BLOCKS):
    program = attention(outputs, mask)
    plan = online(program)
    back = differentiate(program, plan)
    b, h = data.shape[:2]
    for n, x in data.tensors.items():
        if x.is_floating_point():
            data.tensors[n] = x.clone().requires_grad_()
    leaves = {n: x for n, x in data.tensors.items() if x.requires_grad}
    wanted = [name for name, e in program.outputs if e.kind == "float"]
    found = {n: x for n, x in dense(program, data).items() if n in wanted and x.requires_grad}
    seeds = {n: torch.randn_like(x).detach() for n, x in found.items()}
    seeds = {n: torch.where(x.isfinite(), seeds[n], 0.0) for n, x in found.items()}
    loss = sum((seeds[n] * torch.where(x.isfinite(), x, 0.0)).sum() for n, x in found.items())
    expected = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    data.tensors = {n: x.detach() for n, x in data.tensors.items()}
    seeds = {n: x.reshape(b, h, *x.shape[1:]).detach() for n, x in seeds.items()}
    rows = forward_rows(plan, data)
    for block in blocks:
        grads = backward(plan, back, data, rows, seeds, block)
        for (name, leaf), g in zip(leaves.items(), expected, strict=True):
            g = torch.zeros_like(leaf) if g is None else g
            torch.testing.assert_close(grads[name], g, rtol=1e-10, atol=1e-10, msg=lambda m: f"{name}: {m}")
    return back


@pytest.mark.parametrize("spec", SPECS, ids=lambda f: f.__name__)
def test_formula_of_a_variant(spec):
    torch.manual_seed(0)
    check(*spec())


@pytest.mark.parametrize("seed", range(60))
def test_random_formula(seed):
    check(*formula(seed), blocks=BLOCKS[1:2])
