"""The corpus on a GPU, in float32: the kernels that the interpreter ran, compiled."""

import pytest
import torch

import attngen
from tests.differential.flex_corpus import corpus
from tests.differential.test_flex import eager, tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
NAMES = list(corpus())


@pytest.fixture
def cases():
    torch.set_default_device("cuda")
    yield corpus()
    torch.set_default_device(None)


@pytest.mark.parametrize("name", NAMES)
def test_same_as_eager(cases, name):
    case = cases[name]
    q, k, v = (x.cuda() for x in tensors(case))
    out, lse = attngen.flex_attention(
        q, k, v, case.score_mod, mask_mod=case.mask_mod, return_lse=True, facts=dict(case.facts)
    )
    expected, expected_lse = eager(q, k, v, case)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(lse, expected_lse, atol=1e-4, rtol=1e-3)
