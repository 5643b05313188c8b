"""Offsets past 2**31 elements: long caches, packed sequences, huge strides."""

import pytest
import torch

from tests.differential.harness import call, example, kernel

pytestmark = pytest.mark.gpu

FAR = 2**24 + 64  # rows of 128: 2**31 elements and a little more


def attend(q, k, v, scale):
    """Softmax attention of a few rows in float32."""
    p = torch.softmax(q.float() @ k.float().mT * scale, -1)
    return p @ v.float()


def test_heads_past_two_billion_elements():
    """Three heads of 2**23 rows of 128: the third lies past 2**31 elements."""
    made = kernel(example("flash").replace("mask  = causal", "mask = kv_len - kv_idx <= 500"))
    rows = FAR // 2
    k = torch.empty(1, 3, rows, 128, dtype=torch.bfloat16, device="cuda").normal_()
    q = torch.randn(1, 3, 130, 128, dtype=torch.bfloat16, device="cuda")
    out, _ = call(made, {"q": q, "k": k, "v": k})
    for h in range(3):
        near = k[0, h, -500:]
        want = attend(q[0, h], near, near, 128**-0.5)
        torch.testing.assert_close(out[0, h].float(), want, atol=0.02, rtol=0.02)


def test_packed_tokens_past_two_billion_elements():
    """The last of the packed sequences lies past 2**31 elements."""
    made = kernel(example("varlen"))
    x = torch.empty(FAR, 1, 128, dtype=torch.bfloat16, device="cuda")
    x[-200:].normal_()
    x[:64].normal_()
    cuts = torch.tensor([0, 64, 64, FAR - 200, FAR], dtype=torch.int32, device="cuda")
    few = torch.tensor([0, 64, 64, 64, 264], dtype=torch.int32, device="cuda")
    q = torch.cat([x[:64], x[-200:]])
    try:
        (out,) = call(made, {"q": q, "k": x, "v": x, "cu_q": few, "cu_kv": cuts})
    except Exception as error:
        # refused (E515) is right as well: never a wrong number
        assert "2**31" in str(error)
        return
    (alone,) = call(
        made,
        {
            **{n: x[-200:].contiguous() for n in "qkv"},
            **{
                n: torch.tensor([0, 200], dtype=torch.int32, device="cuda")
                for n in ("cu_q", "cu_kv")
            },
        },
    )
    assert torch.equal(out[64:], alone)


@pytest.mark.parametrize("loads", ["descriptor", "pointer"])
def test_huge_strides(loads):
    """Batches and heads far apart in memory."""
    made = kernel(example("flash"), loads=loads)
    store = torch.zeros(2**32 + 2**20, dtype=torch.bfloat16, device="cuda")
    shape, strides = (2, 2, 64, 64), (2**32 - 2**21, 2**20, 64, 1)
    x = {n: torch.as_strided(store, shape, strides, 2**17 * i) for i, n in enumerate("qkv")}
    for t in x.values():
        t.normal_()
    want = call(made, {n: t.contiguous() for n, t in x.items()})
    for a, b in zip(call(made, x), want, strict=True):
        assert torch.equal(a, b)
