"""The backward benchmark: gradients beside compiled FlexAttention's, one command, one GPU.

    python bench/backward.py [--rows causal] [--quick] [--out FILE]

Every row's gradients are compared with those of a dense float64 formula on one head first; a row
that is wrong is not timed. Both sides are timed through `torch.autograd.grad` on a kept graph.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch
from cases import Case, forward_cases, inputs, mods
from check import WrongResultError
from forward import Settings, Table, header
from measure import median_ms, peak_beyond

GOALS = {"full": 1.08, "causal": 1.12, "alibi": 1.15, "softcap": 1.8, "window": 1.18}
GOALS["documents"] = 1.3


def gradients(case: Case, values, seed: torch.Tensor):
    """(call that returns dq dk dv through attngen, names)."""
    import attngen

    leaves = {
        k: v.detach().requires_grad_() if torch.is_tensor(v) and v.is_floating_point() else v
        for k, v in values.items()
    }
    wanted = [v for v in leaves.values() if torch.is_tensor(v) and v.requires_grad]
    out = attngen.compile(str(case.spec))(**leaves)
    out = out[0] if isinstance(out, tuple) else out
    return lambda: torch.autograd.grad(out, wanted, seed, retain_graph=True)


def flex_gradients(case: Case, values, seed: torch.Tensor):
    """The same through torch's compiled FlexAttention (gradients of q, k, v only)."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.reset()
    score_mod, mask_mod = mods(case, "cuda")
    _, _, _, m, n, _ = case.shape
    block = create_block_mask(mask_mod, None, None, m, n, device="cuda") if mask_mod else None
    leaves = [values[name].detach().requires_grad_() for name in "qkv"]
    out = torch.compile(flex_attention, dynamic=False)(
        *leaves, score_mod=score_mod, block_mask=block
    )
    return lambda: torch.autograd.grad(out, leaves, seed, retain_graph=True)


def check(case: Case, got, values, seed: torch.Tensor) -> float:
    """Relative error of dq, dk, dv on one head against float64 autograd of the formula."""
    b, h = 1, case.shape[1] - 1
    q, k, v = (values[n][b, h].double().requires_grad_() for n in "qkv")
    score_mod, mask_mod = mods(case, str(q.device))
    i = torch.arange(q.shape[0], device=q.device)[:, None]
    j = torch.arange(k.shape[0], device=q.device)[None, :]
    s = q @ k.T * q.shape[1] ** -0.5
    s = score_mod(s, b, torch.tensor(h, device=q.device), i, j) if score_mod else s
    s = s.masked_fill(~mask_mod(b, h, i, j), float("-inf")) if mask_mod else s
    want = torch.autograd.grad(s.softmax(-1) @ v, (q, k, v), seed[b, h].double())
    worst = 0.0
    for name, mine, exact in zip("qkv", got, want, strict=False):
        error = float((mine[b, h].double() - exact).norm() / exact.norm())
        if not error < 1e-2:  # bfloat16 operands and results: 2e-3 to 5e-3
            raise WrongResultError(f"d{name} of head {h}: relative error {error:.1e}")
        worst = max(worst, error)
    return worst


def row(case: Case, settings: Settings) -> tuple[str, ...]:
    """One row of the table."""
    values = inputs(case, "cuda", torch.bfloat16)
    b, h, _, m, _, d = case.shape
    seed = torch.randn(b, h, m, d, device="cuda", dtype=torch.bfloat16)
    call = gradients(case, values, seed)
    first, again = call(), call()
    error = check(case, first, values, seed)
    same = all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    extra = peak_beyond(call)
    mine = median_ms(call, settings.quick)
    theirs = median_ms(flex_gradients(case, values, seed), settings.quick)
    ratio, goal = theirs / mine, GOALS[case.kind]
    shown = f"**{ratio:.2f}**" if ratio >= goal else f"{ratio:.2f}"
    flops = 2.5 * case.flops / 1e9
    return (
        *(f"{mine:.4f}", f"{flops / mine:.0f}", f"{theirs:.4f}", f"{flops / theirs:.0f}", shown),
        *(f"{goal:.2f}", f"{error:.1e}", "yes" if same else "NO", f"{extra / 2**20:.1f}"),
    )


def main() -> int:
    """Prints Markdown and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", default="", help="only rows whose name holds this")
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    parser.add_argument("--out", type=Path, help="where the Markdown goes")
    options = parser.parse_args()
    settings = Settings("cuda", options.rows, options.quick)
    heads = (
        "row",
        "ms",
        "TFLOP/s",
        "flex ms",
        "flex TFLOP/s",
        "ratio",
        "goal",
        "error",
        "same bits",
    )
    table = Table(
        "Backward, beside compiled FlexAttention",
        (*heads, "scratch MiB"),
        "bf16. TFLOP/s count 2.5 times the forward's operations over the kept area; the ALiBi row "
        "also computes the gradient of the slopes, FlexAttention's does not. `scratch` is memory beyond "
        "inputs and gradients.",
    )
    for case in forward_cases():
        if case.shape[-1] == 128 and settings.wants(case.name):
            table.add(case.name, lambda case=case: row(case, settings))
    asked = ["--rows", options.rows] if options.rows else []
    text = header(asked, settings, "Backward") + "\n" + table.markdown()
    print(text)
    name = f"{datetime.date.today()}-backward-h200.md"
    out = options.out or HERE / "results" / name
    out.write_text(text, encoding="utf-8")
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
