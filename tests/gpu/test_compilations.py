"""Lengths, batches, strides and scalars never compile anew; training keeps only rows."""

import random

import pytest
import torch

from tests.differential.gradients import leaves, names
from tests.differential.harness import call, example, inputs, kernel
from tests.differential.test_training_run import alone, training_run

pytestmark = pytest.mark.gpu


def variants(made) -> int:
    """How many binaries Triton holds for the kernels of the files a Kernel has made."""
    from triton.runtime.jit import JITFunction

    total = 0
    entries = [one.entry for one in made._made.values()]
    for pair in made._trained.values():
        entries += [pair.forward_entry, pair.backward_entry]
    for space in (entry.__globals__ for entry in entries):
        for function in space.values():
            if isinstance(function, JITFunction):
                caches = getattr(function, "device_caches", {})
                total += sum(len(cache[0]) for cache in caches.values())
    return total


@pytest.mark.parametrize("name", ["flash", "gemma2", "sinks_gated", "varlen"])
@pytest.mark.parametrize("loads", ["descriptor", "pointer"])
def test_fifty_calls_compile_at_most_twice(name, loads):
    made, draw = kernel(example(name), loads=loads), random.Random(5)
    for turn in range(50):
        n = draw.choice((1, 2, 15, 16, 17, 100, 128, 1000, draw.randrange(20, 400)))
        m = max(20, n + draw.randrange(0, 200))
        sizes = {"B": draw.randrange(1, 5), "H": draw.randrange(1, 4), "Hq": 4, "Hkv": 2, "D": 64}
        sizes |= {"Dv": 64, "Sq": max(17, n), "Skv": m, "S": m, "T": m}
        call(made, inputs(made, sizes, turn, permuted=bool(turn % 2)))
    assert made.compilations <= 2
    assert 0 < variants(made) <= 2


@pytest.mark.parametrize("name", ["flash", "gemma2", "alibi_documents", "sinks_gated", "varlen"])
def test_a_training_run_compiles_once(name, tmp_path):
    """One forward file and one backward file, and one binary of each of their kernels."""
    made = alone(name, tmp_path)
    training_run(made, 30)
    (pair,) = made._trained.values()
    assert made.compilations == 1
    assert variants(made) == len(pair.forward.kernels) + len(pair.backward.kernels)


@pytest.mark.parametrize("name", ["flash", "gemma2", "forgetting"])
def test_memory_of_a_training_step(name):
    """q k v out lse, their gradients and numbers per row: nothing of the size of the scores."""
    made = kernel(example(name))
    sizes = {"B": 2, "H": 8, "Hq": 8, "Hkv": 8, "D": 64, "Dv": 64}
    sizes |= dict.fromkeys(("Sq", "Skv", "S"), 4096)
    given = leaves(made, inputs(made, sizes, 1, half=torch.bfloat16))
    wanted = [given[n] for n in names(made)]
    out = call(made, given)[0]
    seed = torch.randn_like(out)
    torch.autograd.grad(out, wanted, seed)
    del out
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = call(made, given)[0]
    found = torch.autograd.grad(out, wanted, seed)
    rows = 2 * 8 * 4096 * 4  # bytes of a number per row
    gradients = sum(x.numel() * x.element_size() for x in found)
    kept = out.numel() * out.element_size() + gradients + 8 * rows
    assert torch.cuda.max_memory_allocated() - before <= kept
