"""A training run in which every step has other lengths, batches and strides."""

import random
from pathlib import Path

import pytest
import torch

from attngen.core.source import Source
from attngen.frontend import load
from attngen.runtime.cache import Cache
from attngen.runtime.kernel import Kernel
from attngen.runtime.specialise import Spec
from tests.differential.gradients import leaves, names
from tests.differential.harness import axes, call, example, inputs

pytestmark = pytest.mark.interpreter


def alone(name: str, folder: Path) -> Kernel:
    """The kernel of an example that no other test has called, with a cache of its own."""
    source = Source("<test>", example(name))
    return Kernel(Spec(source, {}, load(source, {}), {}), cache=Cache(folder))


def training_run(made: Kernel, steps: int, longest: int = 400) -> None:
    """Steps of forward and backward; every one differs in its sizes from the one before."""
    draw = random.Random(7)
    for step in range(steps):
        n = draw.choice((1, 15, 16, 17, draw.randrange(20, longest), longest))
        sizes = {"B": draw.randrange(1, 4), "H": draw.randrange(1, 3), "Hq": 4, "Hkv": 2}
        sizes |= {"D": 16, "Dv": 16, **axes(made.name, n, n + draw.randrange(0, longest))}
        given = leaves(made, inputs(made, sizes, step, permuted=bool(step % 2)))
        results = [r for r in call(made, given) if r.requires_grad]
        loss = sum(torch.where(r.isfinite(), r, 0).float().square().sum() for r in results)
        found = torch.autograd.grad(loss, [given[n] for n in names(made)], allow_unused=True)
        assert all(g is None or bool(g.isfinite().all()) for g in found)


@pytest.mark.parametrize("name", ["flash", "gemma2", "sinks_gated", "varlen"])
def test_one_compilation(name, tmp_path):
    """The pair of files is made at the first step and never again."""
    made = alone(name, tmp_path)
    training_run(made, 8, longest=40)
    assert made.compilations == 1
    assert len(made._trained) == 1
