"""Calls of `flex_attention`: what is traced again, what is refused, known failures."""

import functools
import math

import pytest
import torch
from torch.nn.attention import flex_attention as theirs

import attngen
from attngen.flex import TRACES, flex_kernel, sorted
from tests.differential.flex_corpus import Case, causal, documents_of, offsets_of, window
from tests.differential.test_flex import eager, tensors


def agrees(case, shared=1, **options):
    q, k, v = tensors(case, shared=shared)
    ours = {k: o for k, o in options.items() if k != "aux"}
    out = attngen.flex_attention(q, k, v, case.score_mod, mask_mod=case.mask_mod, **ours)
    torch.testing.assert_close(out, eager(q, k, v, case, **options)[0], atol=2e-5, rtol=1e-4)


# --- what is traced again -------------------------------------------------------------------------
def test_changed_contents_and_lengths_do_not_trace_again():
    doc = torch.zeros(1, 64, dtype=torch.int32)

    def mod(b, h, q_idx, kv_idx):
        return doc[b, q_idx] == doc[b, kv_idx]

    x = torch.randn(1, 2, 64, 16)
    first = attngen.flex_attention(x, x, x, mask_mod=mod)
    count = TRACES.count
    doc[:, 32:] = 1
    second = attngen.flex_attention(x, x, x, mask_mod=mod)
    assert not torch.equal(first, second)
    doc = torch.zeros(1, 48, dtype=torch.int32)
    y = x[:, :, :48]
    attngen.flex_attention(y, y, y, mask_mod=mod)
    assert TRACES.count == count


def test_a_changed_constant_traces_again_and_is_used():
    x = torch.randn(1, 1, 40, 16)
    for width in (3, 9):
        out = attngen.flex_attention(x, x, x, mask_mod=window(width))
        expected, _ = eager(x, x, x, Case(None, window(width), (1, 1, 40, 40)))
        torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)


def test_two_callables_of_one_code_share_a_trace():
    x = torch.randn(1, 1, 40, 16)
    attngen.flex_attention(x, x, x, mask_mod=window(5))
    count = TRACES.count
    attngen.flex_attention(x, x, x, mask_mod=window(5))
    assert TRACES.count == count


def test_tensors_made_inside_are_never_stale():
    slopes = torch.ones(2)

    def mod(score, b, h, q_idx, kv_idx):
        return score + (slopes * 2)[h] * kv_idx

    x = torch.randn(1, 2, 20, 16)
    for factor in (1.0, -1.0):
        slopes.fill_(factor)
        expected, _ = eager(x, x, x, Case(mod, None, (1, 2, 20, 20)))
        out = attngen.flex_attention(x, x, x, mod)
        torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)


class Slopes:
    """A callable object with a tensor and a number."""

    def __init__(self):
        self.slopes, self.factor = torch.rand(2), 0.5

    def __call__(self, score, b, h, q_idx, kv_idx):
        return score + self.slopes[h] * self.factor * (kv_idx - q_idx)

    def method(self, score, b, h, q_idx, kv_idx):
        return self(score, b, h, q_idx, kv_idx)


def with_bias(bias, score, b, h, q_idx, kv_idx):
    return score + bias[b, h, q_idx, kv_idx]


@pytest.mark.parametrize(
    "mod",
    [Slopes(), Slopes().method, functools.partial(with_bias, torch.randn(1, 2, 40, 40))],
    ids=["object", "method", "partial"],
)
def test_other_callables(mod):
    agrees(Case(mod, causal))


# --- FlexAttention's known failures ---------------------------------------------------------------
def test_a_captured_buffer_indexed_twice():
    first, second = torch.randn(40), torch.randint(0, 40, (40,))
    agrees(Case(lambda s, b, h, q, kv: s + first[second[q]] * first[kv] + first[q]))


def test_modulo_in_masks():
    agrees(Case(None, lambda b, h, q, kv: (q - kv) % 5 < 2))
    agrees(Case(None, lambda b, h, q, kv: (kv - q) // 3 % 2 == 0))


def test_heads_in_groups_that_are_no_power_of_two():
    slopes = torch.rand(6)
    case = Case(lambda s, b, h, q, kv: s + slopes[h] * (kv - q), causal, (2, 6, 33, 33))
    agrees(case, shared=3, enable_gqa=True)


@pytest.mark.parametrize("lengths", [(1, 77), (20, 50), (50, 20)])
def test_indices_are_plain_when_lengths_differ(lengths):
    agrees(Case(None, window(30), (1, 2, *lengths)))


@pytest.mark.parametrize("width", [2**30, 2**31 - 1, 2**31, 2**40])
def test_windows_past_32_bits(width):
    agrees(Case(None, window(width)))
    agrees(Case(None, lambda b, h, q, kv: q + width >= kv))


def test_rows_without_keys():
    case = Case(None, lambda b, h, q, kv: (kv < q) & (q > 7))
    q, k, v = tensors(case)
    out, lse = attngen.flex_attention(q, k, v, mask_mod=case.mask_mod, return_lse=True)
    assert torch.equal(out[:, :, :8], torch.zeros_like(out[:, :, :8]))
    assert torch.isneginf(lse[:, :, :8]).all()
    assert torch.isfinite(lse[:, :, 8:]).all()


def test_scalars_and_bools_captured():
    factor, on = torch.tensor(0.3), torch.tensor([True, False])
    agrees(Case(lambda s, b, h, q, kv: torch.where(on[h], s * factor, s)))


def test_scale_and_width_of_values():
    case = Case(None, causal)
    q, k, _ = tensors(case)
    v = torch.randn(1, 2, 40, 32)
    out = attngen.flex_attention(q, k, v, mask_mod=causal, scale=0.7)
    torch.testing.assert_close(out, eager(q, k, v, case, scale=0.7)[0], atol=2e-5, rtol=1e-4)


# --- bounds ---------------------------------------------------------------------------------------
def notes(x, mod, **options):
    return flex_kernel(x, x, x, mask_mod=mod, **options).explain()


def test_sorted_documents_get_bounds():
    doc = documents_of(offsets_of(9, 4, 20, 7))
    x = torch.randn(1, 2, 40, 16)

    def mod(b, h, q_idx, kv_idx):
        return (doc[q_idx] == doc[kv_idx]) & (kv_idx <= q_idx)

    assert "no bound follows" in notes(x, mod)
    assert "no bound follows" not in notes(x, mod, facts={"doc": "sorted"})
    sorted(doc)
    assert "no bound follows" not in notes(x, mod)
    agrees(Case(None, mod))


def test_a_masking_score_gets_bounds():
    x = torch.randn(1, 2, 40, 16)
    kernel = flex_kernel(x, x, x, lambda s, b, h, q, kv: torch.where(q >= kv, s, -math.inf))
    assert "causal" in kernel.explain()


# --- BlockMask ------------------------------------------------------------------------------------
def test_a_block_mask_counts_by_its_mask_mod():
    case = Case(None, window(9))
    q, k, v = tensors(case)
    block = theirs.create_block_mask(case.mask_mod, 1, 2, 40, 40, device="cpu")
    out = attngen.flex_attention(q, k, v, None, block)
    torch.testing.assert_close(out, eager(q, k, v, case)[0], atol=2e-5, rtol=1e-4)


def refused(code, call):
    with pytest.raises(attngen.AttngenError) as error:
        call()
    assert error.value.diagnostics[0].code == code
    assert error.value.diagnostics[0].help


def test_a_block_mask_of_other_lengths_is_refused():
    x = torch.randn(1, 2, 40, 16)
    block = theirs.create_block_mask(causal, 1, 2, 128, 128, device="cpu")
    refused("E520", lambda: attngen.flex_attention(x, x, x, block_mask=block))


def test_block_lists_that_are_the_mask_are_refused():
    x = torch.randn(1, 1, 256, 16)
    count = torch.ones(1, 1, 2, dtype=torch.int32)
    index = torch.zeros(1, 1, 2, 2, dtype=torch.int32)
    block = theirs.BlockMask.from_kv_blocks(count, index, BLOCK_SIZE=128)
    refused("E520", lambda: attngen.flex_attention(x, x, x, block_mask=block))


# --- refused --------------------------------------------------------------------------------------
def test_heads_need_enable_gqa():
    q, k = torch.randn(1, 4, 20, 16), torch.randn(1, 2, 20, 16)
    odd = torch.randn(1, 3, 20, 16)
    refused("E507", lambda: attngen.flex_attention(q, k, k))
    refused("E507", lambda: attngen.flex_attention(odd, k, k, enable_gqa=True))


def test_a_position_past_the_end_of_a_tensor_is_refused():
    x, short = torch.randn(1, 2, 40, 16), torch.randn(30)
    refused("E519", lambda: attngen.flex_attention(x, x, x, lambda s, b, h, q, kv: s + short[q]))
    agreeing = Case(lambda s, b, h, q, kv: s + short[q.clamp(max=29)])
    agrees(agreeing)


def test_a_longer_tensor_is_read_from_its_start():
    table = torch.randn(100)
    agrees(Case(lambda s, b, h, q, kv: s + table[q] * table[kv]))


def test_strided_and_narrow_captures():
    table = torch.randn(40, 2).t()
    small = torch.randint(0, 3, (40,), dtype=torch.uint8)
    agrees(Case(lambda s, b, h, q, kv: s + table[h, kv] + small[q] * small[kv]))


@pytest.mark.parametrize("gradient", [False, True])
def test_return_aux(gradient):
    """torch has the largest scores on a GPU only; here they are held to the definition."""

    def some(b, h, q_idx, kv_idx):
        return (kv_idx < q_idx) & (q_idx > 3)

    x = torch.randn(1, 2, 20, 16, requires_grad=gradient)
    expected, lse = eager(*(x.detach(),) * 3, Case(None, some, sizes=(1, 2, 20, 20)))
    scores = (x @ x.transpose(-1, -2) / 4).detach()
    keep = theirs.create_mask(some, 1, 2, 20, 20, device="cpu")
    most = scores.masked_fill(~keep, -math.inf).amax(-1)
    for asked in ((True, True), (True, False), (False, True), (False, False)):
        request = theirs.AuxRequest(*asked)
        out, aux = attngen.flex_attention(x, x, x, mask_mod=some, return_aux=request)
        assert out.requires_grad == gradient
        torch.testing.assert_close(out.detach(), expected, atol=2e-5, rtol=1e-4)
        for found, want, there in zip(aux, (lse, most), asked, strict=True):
            assert (found is not None) == there
            if there:
                torch.testing.assert_close(found.detach(), want, atol=2e-5, rtol=1e-4)
        assert aux.max_scores is None or not aux.max_scores.requires_grad
    request = theirs.AuxRequest(lse=True)
    refused(
        "E521",
        lambda: attngen.flex_attention(x, x, x, return_lse=True, return_aux=request),
    )


def test_compile_runs_it_between_graphs_and_its_kernel_inside_of_one():
    slopes = torch.rand(2)

    def mod(score, b, h, q_idx, kv_idx):
        return score + slopes[h] * (kv_idx - q_idx)

    x = torch.randn(1, 2, 20, 16)
    want = attngen.flex_attention(x, x, x, mod)
    around = torch.compile(lambda y: attngen.flex_attention(y * 1.0, x, x, mod), backend="eager")
    assert torch.equal(around(x), want)
    kernel = flex_kernel(x, x, x, mod)
    inside = torch.compile(lambda y: kernel(y * 1.0, x, x, slopes), fullgraph=True, backend="eager")
    assert torch.equal(inside(x), want)


def test_other_ranks_are_refused():
    x = torch.randn(2, 40, 16)
    refused("E504", lambda: attngen.flex_attention(x, x, x))
