"""The corpus on a GPU, in float32: the kernels that the interpreter ran, compiled."""

import pytest
import torch
from torch.nn.attention import flex_attention as theirs

import attngen
from tests.differential.flex_corpus import corpus
from tests.differential.test_flex import eager, tensors
from tests.differential.test_flex_gradients import agrees

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


@pytest.mark.parametrize("name", [n for n in NAMES if n != "mla_rope"])
def test_gradients(cases, name):
    agrees(cases[name], device="cuda", close={"atol": 1e-4, "rtol": 1e-3})


def test_largest_scores_as_torch_has_them(cases):
    case = cases["sliding_window"]
    q, k, v = (x.cuda() for x in tensors(case))
    request = theirs.AuxRequest(lse=True, max_scores=True)
    block = theirs.create_block_mask(case.mask_mod, 1, 2, 40, 40, device="cuda")
    _, want = theirs.flex_attention(q, k, v, None, block, return_aux=request)
    _, found = attngen.flex_attention(q, k, v, mask_mod=case.mask_mod, return_aux=request)
    for one, two in zip(found, want, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)
