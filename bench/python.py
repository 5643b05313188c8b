"""Host time of a call through each Python entry; run `python bench/python.py`.

Small tensors on a GPU, many calls without waiting for it, so that what is measured is the time the
host needs; medians of rounds in which the rows take turns.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.nn.attention.flex_attention import and_masks
from torch.nn.functional import scaled_dot_product_attention as sdpa

import attngen
from attngen.flex import flex_kernel

ROUNDS, CALLS = 9, 200
TEXT = """attention plain {
  query q : half[B, H, S, D]
  key   k : half[B, H, S, D]
  value v : half[B, H, S, D]
  score = dot(q, k) * rsqrt(D)
  mask  = causal
}
"""


def causal(b, h, q_idx, kv_idx):
    return kv_idx <= q_idx


def window(width):
    return and_masks(lambda b, h, q_idx, kv_idx: q_idx - kv_idx < width, causal)


def rows():
    q, k, v = (torch.randn(1, 4, 128, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    slopes = torch.rand(4, device="cuda")
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    kernel, mask = attngen.compile(TEXT), window(64)
    seed = torch.randn_like(q)

    def alibi(score, b, h, q_idx, kv_idx):
        return score + slopes[h] * (kv_idx - q_idx)

    def both(call):
        return lambda: torch.autograd.grad(call(*leaves), leaves, seed)

    out = kernel(*leaves)
    saved = list(out.grad_fn.saved_tensors)
    run = kernel.operators.run.backward
    traced = flex_kernel(q, k, v, alibi, mask_mod=mask)
    flex = attngen.flex_attention
    return {
        "kernel": lambda: kernel(q, k, v),
        "flex_attention, causal": lambda: flex(q, k, v, mask_mod=causal),
        "its kernel, ALiBi and window": lambda: traced(q, k, v, slopes),
        "flex_attention, ALiBi and window": lambda: flex(q, k, v, alibi, mask_mod=mask),
        "kernel, forward with gradient": lambda: kernel(*leaves),
        "kernel, forward and backward": both(kernel),
        "the same backward without autograd": lambda: run(saved[:3], [*saved[3:], seed]),
        "flex_attention, forward and backward": both(lambda *x: flex(*x, mask_mod=causal)),
        "sdpa": lambda: sdpa(q, k, v, is_causal=True),
        "sdpa, forward and backward": both(lambda *x: sdpa(*x, is_causal=True)),
    }


def measured(calls):
    """Microseconds of the host per call: medians over the rounds."""
    found = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(20):
            call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            found[name].append((time.perf_counter() - start) / CALLS * 1e6)
    return {name: statistics.median(times) for name, times in found.items()}


def main():
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| call | host time, us |\n|---|---|")
    for name, time_us in measured(rows()).items():
        print(f"| {name} | {time_us:.1f} |")


if __name__ == "__main__":
    main()
