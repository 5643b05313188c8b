"""Lengths, batches, strides and scalars never compile anew."""

import random

import pytest

from tests.differential.harness import call, example, inputs, kernel

pytestmark = pytest.mark.gpu


def variants(made) -> int:
    """How many binaries Triton holds for the kernels of the files a Kernel has made."""
    from triton.runtime.jit import JITFunction

    total = 0
    for one in made._made.values():
        space = one.entry.__globals__
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
