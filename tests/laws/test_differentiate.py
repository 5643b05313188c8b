"""The backward of a plan, run tile by tile from the saved rows, is autograd of the reference."""

import pytest
import torch

from attngen.core.source import Source
from attngen.passes.differentiate import differentiate
from attngen.passes.online import online
from attngen.reference.execute import reference
from attngen.reference.generate import random_spec
from tests.laws.backward_executor import backward, forward_rows
from tests.laws.backward_programs import of_example, of_formula, of_source
from tests.laws.online_random import formula
from tests.laws.online_specs import SPECS

BLOCKS = [(16, 16), (5, 8), (19, 3)]


def check(program, leaves, pieces, blocks=BLOCKS):
    plan = online(program)
    back = differentiate(program, plan)
    results = dict(zip([n for n, _ in program.outputs], reference(program, leaves), strict=True))
    results = {name: results[name] for name, _ in back.seeds}
    seeds = {n: torch.where(x.isfinite(), torch.randn_like(x), 0.0) for n, x in results.items()}
    loss = sum((seeds[n] * torch.where(x.isfinite(), x, 0.0)).sum() for n, x in results.items())
    wanted = {n: x for n, x in leaves.items() if x.requires_grad}
    expected = dict.fromkeys(wanted)
    if results:
        found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        expected = dict(zip(wanted, found, strict=True))
    for block in blocks:
        found = gradients(program, plan, back, leaves, pieces, seeds, block)
        for name, x in wanted.items():
            want = torch.zeros_like(x) if expected[name] is None else expected[name]
            torch.testing.assert_close(
                found[name], want, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )
    return back


def gradients(program, plan, back, leaves, pieces, seeds, block):
    """Gradients of the leaves, summed over the sequences of a packed call."""
    query = next(t for t in program.tensors if t.role == "query")
    found = {n: torch.zeros_like(x) for n, x in leaves.items() if x.requires_grad}
    for data, laid in pieces:
        if not data.shape[3]:
            continue
        own = {}
        for name, x in seeds.items():
            rows = x if x.dim() == len(query.axes) else x.unsqueeze(-1)
            own[name] = laid(query.name, rows)
        grads = backward(plan, back, data, forward_rows(plan, data), own, block)
        for name in found:  # the transpose of laying out
            x = laid(name, leaves[name])
            found[name] += torch.autograd.grad(x, leaves[name], grads[name])[0]
    return found


@pytest.mark.parametrize("spec", SPECS, ids=lambda f: f.__name__)
def test_formula_of_a_variant(spec):
    torch.manual_seed(0)
    check(*of_formula(*spec()))


@pytest.mark.parametrize("seed", range(60))
def test_random_formula(seed):
    check(*of_formula(*formula(seed)), blocks=BLOCKS[1:2])


EXAMPLES = {
    "flash": {}, "gemma2": {"window": 7, "cap": 2.0}, "alibi_documents": {}, "prefix_lm": {},
    "sinks_gated": {"window": 5}, "relative_bias": {"buckets": 4}, "forgetting": {},
    "sigmoid": {}, "differential": {}, "parallax": {}, "mla": {}, "varlen": {},
    "dropout": {"rate": 0.3},
}  # fmt: skip
SIZES = {"B": 2, "H": 2, "Hq": 4, "Hkv": 2, "S": 19, "Sq": 13, "Skv": 19, "T": 23, "D": 8, "Dv": 6}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    torch.manual_seed(0)
    check(*of_example(name, SIZES, EXAMPLES[name]), blocks=BLOCKS[:2])


SMALL = {"B": 2, "H": 2, "Hq": 4, "Hkv": 2, "S": 17, "Sq": 9, "Skv": 17, "T": 19, "D": 4, "Dv": 3}


@pytest.mark.parametrize("seed", range(40))
def test_random_spec(seed):
    torch.manual_seed(seed)
    spec = random_spec(seed)
    check(*of_source(Source("random.attn", spec.text), SMALL), blocks=BLOCKS[1:2])
