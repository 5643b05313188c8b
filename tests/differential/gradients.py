"""Gradients of a call held against float64 autograd of the formula: shared by the tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from attngen.ir.attention import Attention
from attngen.ir.expr import LogSumExp, Softmax, Sum
from attngen.ir.walk import walk
from attngen.reference.execute import SCALES, matched, reference
from attngen.reference.tolerance import compare
from attngen.runtime.kernel import Kernel
from tests.differential.harness import call

DIFFERENTIABLE = (
    *("flash", "gemma2", "alibi_documents", "prefix_lm", "sinks_gated", "relative_bias"),
    *("forgetting", "sigmoid", "differential", "parallax", "mla", "varlen", "dropout"),
)
Tensors = Mapping[str, object]


def names(made: Kernel) -> list[str]:
    """What has a gradient."""
    return [made.declared[i].name for i in made.floats]


def leaves(made: Kernel, tensors: Tensors, dtype: torch.dtype | None = None) -> dict:
    """The arguments with new leaves that require a gradient; numbers become tensors."""
    out = dict(tensors)
    for name in names(made):
        value = torch.as_tensor(tensors[name]).detach()
        value = value.clone() if dtype is None else value.to(dtype)
        out[name] = value.requires_grad_()
    return out


def seeds(results: tuple[torch.Tensor, ...], seed: int = 0) -> list[torch.Tensor]:
    """A random gradient for each floating result, also where it is -inf."""
    maker = torch.Generator().manual_seed(seed)
    floating = [r for r in results if r.is_floating_point()]
    return [torch.randn(r.shape, generator=maker).to(r) for r in floating]


def differentiated(results, given: dict, wanted: list[str], incoming: list) -> list[torch.Tensor]:
    """Gradients of the named leaves; zeros where a result does not depend on one."""
    floating = [r for r in results if r.is_floating_point()]
    pairs = [(r, s) for r, s in zip(floating, incoming, strict=True) if r.requires_grad]
    if not pairs:
        return [torch.zeros_like(given[n]) for n in wanted]
    found = torch.autograd.grad(
        [r for r, _ in pairs],
        [given[n] for n in wanted],
        [s.to(r.dtype) for r, s in pairs],
        allow_unused=True,
        retain_graph=True,
    )
    return [
        torch.zeros_like(given[n]) if g is None else g for n, g in zip(wanted, found, strict=True)
    ]


def kernel_gradients(made: Kernel, tensors: Tensors) -> tuple[list[torch.Tensor], list]:
    """Gradients by the kernel, twice: they must be the same bits; and the seeds."""
    given = leaves(made, tensors)
    results = call(made, given)
    incoming = seeds(results)
    first = differentiated(results, given, names(made), incoming)
    again = differentiated(call(made, given), given, names(made), incoming)
    for name, one, two in zip(names(made), first, again, strict=True):
        assert torch.equal(one, two), f"{name}: two runs differ"
    return first, incoming


def expected(program: Attention, made: Kernel, tensors: Tensors, incoming: list) -> list:
    """By float64 autograd of the formula."""
    given = leaves(made, tensors, torch.float64)
    return differentiated(reference(program, given), given, names(made), incoming)


def baseline(
    program: Attention, made: Kernel, tensors: Tensors, incoming: list, half: torch.dtype
) -> list[list[torch.Tensor]]:
    """By autograd of the formula in the kernel's precision, at several scales of rounding."""
    out = []
    for scale in SCALES if half is not torch.float32 else SCALES[:1]:
        given = leaves(made, tensors)
        results = matched(program, given, half, scale)
        out.append(differentiated(results, given, names(made), incoming))
    # a kernel rounds the gradients of the scores before their products, as autograd does not; that
    # is as much as moving the rows they are multiplied with by half an ulp
    maker = torch.Generator().manual_seed(1)
    for _ in range(4 if half is not torch.float32 else 0):
        moved = dict(tensors)
        for t in made.declared:
            if t.is_stream:
                x = torch.as_tensor(tensors[t.name]).double()
                noise = 2 * torch.rand(x.shape, generator=maker, dtype=torch.float64) - 1
                moved[t.name] = x * (1 + noise.to(x) * torch.finfo(half).eps / 2)
        out.append(expected(program, made, moved, incoming))
    return out


def read_back(
    program: Attention, made: Kernel, tensors: Tensors, incoming: list, half: torch.dtype
) -> list[list[torch.Tensor]]:
    """What rounding the results changes, as a backward reads them: golden moves by that much.

    The derivative of a softmax needs delta = sum over columns of d_out * out, per query. An error e
    of delta changes the gradient of score j by -e * p_j, that is by e times the gradient of the
    row's logsumexp; e is the sum of d_out * out * (relative rounding), drawn at random.
    """
    found = {x: None for x in walk(*(e for _, e in program.outputs)) if isinstance(x, Softmax)}
    if not found:
        return []
    outputs = tuple((f"lse_{i}", LogSumExp(x.score, x.sink)) for i, x in enumerate(found))
    given = leaves(made, tensors, torch.float64)
    totals = reference(replace(program, outputs=outputs), given)
    results = [r.detach() for r in reference(program, given) if r.is_floating_point()]
    sizes = _magnitudes(program, tensors, results)
    maker, out = torch.Generator().manual_seed(0), []
    for _ in range(16):  # one number moves a whole row: few draws would say little
        errors = torch.zeros_like(totals[0])
        for size, s in zip(sizes, incoming, strict=True):
            if size.dim() > errors.dim():
                noise = 2 * torch.rand(size.shape, generator=maker, dtype=torch.float64) - 1
                # half an ulp of each element, and the order in which float32 adds them up
                scale = (torch.finfo(half).eps + torch.finfo(torch.float32).eps) / 2
                errors = errors + (s.double() * size * noise.to(size)).sum(-1) * scale
                more = (s.double() * size).abs().sum(-1) * torch.finfo(torch.float32).eps
                errors = errors + more * noise[..., 0].to(size)
        out.append(differentiated(totals, given, names(made), [errors] * len(totals)))
    return out


def _magnitudes(
    program: Attention, tensors: Tensors, results: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Of what is read back: a result, or a sum in it, which may be larger where terms cancel."""
    found = {x: None for x in walk(*(e for _, e in program.outputs)) if isinstance(x, Sum)}
    sums = tuple((f"sum_{i}", x) for i, x in enumerate(found))
    terms = reference(replace(program, outputs=sums), tensors) if sums else ()
    out = []
    for r in results:
        alike = [r.abs(), *(t.abs() for t in terms if t.shape == r.shape)]
        out.append(torch.stack(alike).amax(0))
    return out


def gradient_problems(made: Kernel, tensors: Tensors, half: torch.dtype) -> list[str]:
    """What is wrong with the gradients of a call, in words."""
    program = made.spec.attention
    found, incoming = kernel_gradients(made, tensors)
    golden = expected(program, made, tensors, incoming)
    draws = baseline(program, made, tensors, incoming, half)
    moved = read_back(program, made, tensors, incoming, half)
    wrong = []
    for i, name in enumerate(names(made)):
        got, want = found[i], golden[i]
        if got.numel() == 0 and got.shape == want.shape:
            continue
        square = torch.stack([(d[i].double() - want).square() for d in draws]).mean(0)
        if moved:
            square = square + torch.stack([m[i].square() for m in moved]).mean(0)
        typical = want + square.sqrt()
        if want.dim() == 0:
            got, want, typical = (x.reshape(1) for x in (got, want, typical))
        verdict = compare(got, want, typical, kind="grad", half=half)
        if not verdict:
            wrong.append(f"d_{name}: {verdict.message}")
    return wrong
