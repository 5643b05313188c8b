"""FlexAttention's callables through attngen: ALiBi inside packed documents, without a block mask.

Runs on a GPU, or without one through Triton's interpreter: python examples/flex_documents.py
"""

import torch

from attngen import flex_attention
from attngen.flex import flex_kernel


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lengths = torch.tensor([60, 30, 110], device=device)
    doc = torch.arange(3, device=device).repeat_interleave(lengths)
    slopes = torch.tensor([0.5, 0.25], device=device)
    q, k, v = (torch.randn(1, 2, 200, 64, device=device) for _ in range(3))

    def alibi(score, b, h, q_idx, kv_idx):
        return score + slopes[h] * (kv_idx - q_idx)

    def same_document(b, h, q_idx, kv_idx):
        return (doc[q_idx] == doc[kv_idx]) & (kv_idx <= q_idx)

    facts = {"doc": "sorted"}
    out = flex_attention(q, k, v, alibi, mask_mod=same_document, facts=facts)

    place = torch.arange(200, device=device)
    bias = slopes[:, None, None] * (place[None, :] - place[:, None])
    keep = (doc[None, :] == doc[:, None]) & (place[None, :] <= place[:, None])
    scores = (q @ k.transpose(-1, -2)) / 8 + bias
    expected = scores.masked_fill(~keep, float("-inf")).softmax(-1) @ v
    error = (out - expected).abs().max().item()
    print(flex_kernel(q, k, v, alibi, mask_mod=same_document, facts=facts).explain())
    print(f"largest difference from torch: {error:.1e}")
    assert error < 1e-3


if __name__ == "__main__":
    main()
