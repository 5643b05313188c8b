"""Gradients of `flex_attention`, to captured tensors too, against autograd through dense torch."""

import pytest
import torch

import attngen
from attngen.flex import TRACES
from attngen.flex.capture import Walk
from tests.differential.flex_corpus import Case, causal, corpus, latent_rope
from tests.differential.flex_dense import dense
from tests.differential.test_flex import tensors

pytestmark = pytest.mark.interpreter
CASES = corpus()
CLOSE = {"atol": 3e-5, "rtol": 2e-4}


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


def agrees(case, shared=1, theirs=None, device="cpu", close=CLOSE):
    q, k, v = (x.to(device) for x in tensors(case, shared=shared))
    leaves = [q, k, v, *captured(case)]
    make = torch.Generator("cpu").manual_seed(3)
    seeds = [torch.randn(*q.shape[:3], w, generator=make, device="cpu") for w in (16, 1)]
    seeds = [x.to(device) for x in seeds]
    seeds[1] = seeds[1][..., 0]

    def ours():
        options = {"enable_gqa": shared > 1, "facts": dict(case.facts)}
        return attngen.flex_attention(
            q, k, v, case.score_mod, mask_mod=case.mask_mod, return_lse=True, **options
        )

    found = gradients(ours, leaves, seeds)
    theirs = theirs or (lambda q, k, v: dense(q, k, v, case.score_mod, case.mask_mod))
    want = gradients(lambda: theirs(q, k, v), leaves, seeds)
    for mine, other in zip(found, want, strict=True):
        expected = torch.zeros_like(mine) if other is None else other
        torch.testing.assert_close(mine, expected, **close)


@pytest.mark.parametrize("name", [n for n in CASES if n != "mla_rope"])
def test_same_as_autograd(name):
    agrees(CASES[name])


def test_rows_of_captured_tensors():
    """As mla_rope of the corpus, whose captured rows torch cannot differentiate under vmap."""
    q_rope, k_rope = torch.rand(1, 2, 40, 16), torch.rand(1, 1, 40, 16)

    def theirs(q, k, v):
        wide = [torch.cat([q, q_rope], -1), torch.cat([k, k_rope.expand(-1, 2, -1, -1) * 1.2], -1)]
        return dense(*wide, v, None, None, scale=0.25)

    agrees(Case(latent_rope(q_rope, k_rope, 2, 0.3)), theirs=theirs)


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


# --- captured tensors read in other ways than one position an axis --------------------------------
def whole(high, *shape):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(5))


READS = {
    "a number": (torch.rand(()), lambda t: lambda s, b, h, q, kv: s * t),
    "an element": (torch.rand(3), lambda t: lambda s, b, h, q, kv: s + t[1] * kv),
    "heads in groups": (torch.rand(1), lambda t: lambda s, b, h, q, kv: s + t[h // 2] * kv),
    "per batch": (torch.rand(2), lambda t: lambda s, b, h, q, kv: s + t[b] * kv * 0.1),
    "heads beside buckets": (
        torch.rand(11, 2),
        lambda t: lambda s, b, h, q, kv: s + t[(q - kv).clamp(-5, 5) + 5, h],
    ),
    "buckets in two axes": (
        torch.rand(2, 7, 5),
        lambda t: (
            lambda s, b, h, q, kv: (
                s + t[h, (q // 4 - kv // 4).clamp(-3, 3) + 3, (q % 4 - kv % 4).clamp(-2, 2) + 2]
            )
        ),
    ),
    "a table of the queries": (
        torch.rand(18, 6),
        lambda t: lambda s, b, h, q, kv: s + t[q, (q - kv).clamp(0, 5)],
    ),
    "twice, and by a table": (
        torch.rand(18),
        lambda t: lambda s, b, h, q, kv: s + t[PLACES[q]] * t[kv] + t[PLACES[kv]],
    ),
    "one batch for all": (
        torch.rand(1, 2, 18, 18),
        lambda t: lambda s, b, h, q, kv: s + t[0, h, q, kv],
    ),
    "rows the other way": (
        torch.rand(18, 18),
        lambda t: lambda s, b, h, q, kv: s + t[kv, q],
    ),
}
PLACES = whole(18, 18)


@pytest.mark.parametrize("name", READS)
def test_reads(name):
    tensor, make = READS[name]
    agrees(Case(make(tensor.clone()), causal, (2, 2, 18, 18)))


def test_a_gathered_tensor_that_is_too_short_is_refused():
    table = torch.rand(10, requires_grad=True)
    x = torch.randn(1, 2, 18, 16)

    def mod(score, b, h, q_idx, kv_idx):
        return score + table[q_idx] * table[PLACES[kv_idx]]

    with pytest.raises(attngen.CallError, match="E519"):
        attngen.flex_attention(x, x, x, mod)


def test_lengths_change_and_gathers_follow():
    table = torch.rand(30, requires_grad=True)

    def mod(score, b, h, q_idx, kv_idx):
        return score + table[q_idx // 2] * kv_idx * 0.1

    counts = []
    for length in (9, 18, 33):
        x = torch.randn(1, 2, length, 16)
        found = torch.autograd.grad(attngen.flex_attention(x, x, x, mod).sum(), table)
        want = torch.autograd.grad(dense(x, x, x, mod, None)[0].sum(), table)
        torch.testing.assert_close(found, want, **CLOSE)
        counts.append(TRACES.count)
    assert counts[0] == counts[-1]


def test_positions_counted_from_the_end():
    """The last rows of a longer call, as in decoding."""
    table = torch.rand(40, requires_grad=True)

    def mod(score, b, h, q_idx, kv_idx):
        return score + table[q_idx] * table[39 - kv_idx]

    q, k, v = tensors(Case(sizes=(1, 2, 40, 40)))
    for rows in (1, 7):
        last = q[:, :, -rows:].contiguous()
        out = attngen.flex_attention(last, k, v, mod, mask_mod=causal, align="end")
        found = torch.autograd.grad(out.square().sum(), table)
        want, _ = dense(q, k, v, mod, causal)
        torch.testing.assert_close(out, want[:, :, -rows:], **CLOSE)
        expected = torch.autograd.grad(want[:, :, -rows:].square().sum(), table)
        torch.testing.assert_close(found, expected, **CLOSE)
