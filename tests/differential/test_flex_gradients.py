"""Gradients of `flex_attention`, to captured tensors too, against autograd through dense torch."""

import pytest
import torch

import attngen
from attngen.flex.capture import Walk
from tests.differential.flex_corpus import Case, causal, corpus
from tests.differential.flex_dense import dense
from tests.differential.test_flex import tensors

pytestmark = pytest.mark.interpreter
CASES = corpus()
DOUBLE, CLOSE = torch.float64, {"atol": 3e-5, "rtol": 2e-4}


def captured(case):
    """The floating tensors the callables reach."""
    walk = Walk()
    for mod in (case.score_mod, case.mask_mod):
        walk.fingerprint(mod)
    return [t for _, t in walk.tensors if t.is_floating_point()]


def gradients(run, leaves, seeds):
    for x in leaves:
        x.requires_grad_()
    results = run()
    total = sum((r * s).sum() for r, s in zip(results, seeds, strict=True))
    return torch.autograd.grad(total, leaves, allow_unused=True)


def agrees(case, shared=1, lse=True, score_mod=None):
    q, k, v = tensors(case, shared=shared)
    leaves = [q, k, v, *captured(case)]
    make = torch.Generator().manual_seed(3)
    seeds = [torch.randn(*q.shape[:3], w, generator=make) for w in (16, 1)]
    seeds[1] = seeds[1][..., 0] * (1.0 if lse else 0.0)

    def ours():
        options = {"enable_gqa": shared > 1, "facts": dict(case.facts)}
        return attngen.flex_attention(
            q, k, v, case.score_mod, mask_mod=case.mask_mod, return_lse=True, **options
        )

    found = gradients(ours, leaves, seeds)
    want = gradients(lambda: dense(q, k, v, case.score_mod, case.mask_mod), leaves, seeds)
    for mine, theirs in zip(found, want, strict=True):
        expected = torch.zeros_like(mine) if theirs is None else theirs
        torch.testing.assert_close(mine, expected, **CLOSE)


@pytest.mark.parametrize("name", CASES)
def test_same_as_autograd(name):
    agrees(CASES[name])


def test_heads_in_groups_that_are_no_power_of_two():
    slopes = torch.rand(6)
    case = Case(lambda s, b, h, q, kv: s + slopes[h] * (kv - q), causal, (2, 6, 33, 33))
    agrees(case, shared=3)


def test_a_captured_buffer_indexed_twice():
    first, second = torch.randn(40), torch.randint(0, 40, (40,))
    agrees(Case(lambda s, b, h, q, kv: s + first[second[q]] * first[kv] + first[q]))


def test_only_lse_is_used():
    x = torch.randn(1, 2, 20, 16, requires_grad=True)
    case = Case(None, causal, (1, 2, 20, 20))
    _, lse = attngen.flex_attention(x, x, x, mask_mod=causal, return_lse=True)
    (found,) = torch.autograd.grad(lse.sum(), x)
    _, expected = dense(x, x, x, None, case.mask_mod)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), x)[0], **CLOSE)
