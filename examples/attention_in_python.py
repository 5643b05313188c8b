"""Gemma 2's attention as a Python function, checked against its definition.

Runs on a GPU, or without one through Triton's interpreter: python examples/attention_in_python.py
"""

import torch

from attngen import attention


@attention
def gemma2(
    q: "query half[B, Hq, Sq, D]",
    k: "key half[B, Hkv, Skv, D]",
    v: "value half[B, Hkv, Skv, D]",
    window: "i32",
    cap=50.0,
):
    score = softcap(dot(q, k) * rsqrt(D), cap)
    mask = causal and q_pos - kv_idx < window
    return sum(softmax(score) * v)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    q = torch.randn(1, 4, 200, 64, device=device)
    k, v = (torch.randn(1, 2, 200, 64, device=device) for _ in range(2))
    out = gemma2(q, k, v, window=64)
    error = (out - gemma2.reference(q, k, v, 64)).abs().max().item()
    print(gemma2.spec)
    print(f"largest difference from the definition: {error:.1e}")
    assert error < 1e-3


if __name__ == "__main__":
    main()
