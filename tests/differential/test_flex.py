"""`flex_attention` gives what torch's eager FlexAttention gives, through the interpreter in f32."""

import pytest
import torch
from torch.nn.attention import flex_attention as theirs

import attngen
from tests.differential.flex_corpus import corpus

CASES = corpus()


def eager(q, k, v, case, **options):
    """Torch's result and logsumexp."""
    theirs._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True
    b, h, q_len, kv_len = case.sizes
    block = None
    if case.mask_mod is not None:
        block = theirs.create_block_mask(case.mask_mod, b, h, q_len, kv_len, device=q.device.type)
    aux = theirs.AuxRequest(lse=True)
    out, aux = theirs.flex_attention(q, k, v, case.score_mod, block, return_aux=aux, **options)
    return out, aux.lse


def tensors(case, width=16, shared=1):
    b, h, q_len, kv_len = case.sizes
    make = torch.Generator("cpu").manual_seed(1)
    shapes = ((b, h, q_len, width), *((b, h // shared, kv_len, width),) * 2)
    return [torch.randn(*shape, generator=make, device="cpu") for shape in shapes]


def held_to_eager(case):
    """The kernel gives what torch's eager FlexAttention gives."""
    q, k, v = tensors(case)
    out, lse = attngen.flex_attention(
        q, k, v, case.score_mod, mask_mod=case.mask_mod, return_lse=True, facts=dict(case.facts)
    )
    expected, expected_lse = eager(q, k, v, case)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(lse, expected_lse, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_same_as_eager(name):
    held_to_eager(CASES[name])
