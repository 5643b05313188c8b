"""The online form keeps the value of every formula, whatever the tiles and however keys are split."""

import pytest
import torch

from attngen.passes.online import online
from tests.laws.online_executor import execute
from tests.laws.online_formulas import attention
from tests.laws.online_specs import SPECS
from tests.laws.online_values import dense

SCHEDULES = [((16, 16), 1), ((8, 5), 3), ((19, 3), 2)]


def check(outputs, mask, data, schedules=SCHEDULES):
    program = attention(outputs, mask)
    plan = online(program)
    expected = dense(program, data)
    for block, splits in schedules:
        found = execute(plan, data, block, splits)
        for name, x in expected.items():
            torch.testing.assert_close(found[name], x, rtol=1e-10, atol=1e-10, equal_nan=True)
    return plan


@pytest.mark.parametrize("spec", SPECS, ids=lambda f: f.__name__)
def test_formula_of_a_variant(spec):
    torch.manual_seed(0)
    check(*spec())
