"""The properties of forward kernels on a GPU, and those only a GPU can break."""

import pytest
import torch

from tests.differential.harness import call, example, inputs, kernel
from tests.differential.properties import all_properties, equal

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("holds", all_properties(), ids=lambda f: f.__name__)
def test_property(holds):
    holds()


NAMES = ("flash", "gemma2", "differential", "varlen", "knn", "sinks_gated")
SIZES = {"B": 2, "H": 4, "Hq": 8, "Hkv": 2, "D": 64, "Dv": 64}
SIZES |= dict.fromkeys(("Sq", "Skv", "S", "T"), 300)


@pytest.mark.parametrize("name", NAMES)
def test_a_captured_graph_gives_the_same_bits(name):
    made = kernel(example(name))
    x = inputs(made, SIZES)
    want = call(made, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = call(made, x)
    for g in got:
        g.zero_()
    graph.replay()
    torch.cuda.synchronize()
    equal(got, want)


@pytest.mark.parametrize("name", NAMES)
def test_streams_beside_each_other(name):
    """Calls on several streams at once, twenty times, give the bits of one call alone."""
    made = kernel(example(name))
    x = inputs(made, SIZES)
    want = call(made, x)
    torch.cuda.synchronize()
    beside = [torch.cuda.Stream() for _ in range(4)]
    results = []
    for turn in range(20):
        with torch.cuda.stream(beside[turn % 4]):
            results.append(call(made, x))
    torch.cuda.synchronize()
    for got in results:
        equal(got, want)


def test_bytes_around_the_tensors_stay():
    """Guard zones of 4 KiB before and after each result keep their contents."""
    made = kernel(example("flash"))
    x = inputs(made, {**SIZES, "Sq": 77, "Skv": 91})
    want = call(made, x)
    real, zones = torch.empty, []

    def guarded(shape, *, dtype, device):
        count = torch.Size(shape).numel()
        pad = 4096 // dtype.itemsize
        store = torch.full((count + 2 * pad,), 3.5, dtype=dtype, device=device)
        zones.append((store, pad))
        return store[pad : pad + count].view(shape)

    torch.empty = guarded
    try:
        got = call(made, x)
    finally:
        torch.empty = real
    equal(got, want)
    for store, pad in zones:
        assert bool((store[:pad] == 3.5).all()) and bool((store[-pad:] == 3.5).all())
