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
# (example, lengths): the last are decoded in parts, by two kernels of which one is launched early
CALLS = [*((name, SIZES) for name in NAMES)]
CALLS += [(name, SIZES | {"Sq": 4, "Skv": 3000}) for name in ("flash", "gemma2", "sinks_gated")]
calls = pytest.mark.parametrize(
    ("name", "sizes"), CALLS, ids=[f"{name}-{sizes['Sq']}x{sizes['Skv']}" for name, sizes in CALLS]
)


@calls
def test_a_captured_graph_gives_the_same_bits(name, sizes):
    made = kernel(example(name))
    x = inputs(made, sizes)
    want = call(made, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = call(made, x)
    for g in got:
        g.zero_()
    graph.replay()
    torch.cuda.synchronize()
    equal(got, want)


@calls
def test_streams_beside_each_other(name, sizes):
    """Calls on several streams at once, twenty times, give the bits of one call alone."""
    made = kernel(example(name))
    x = inputs(made, sizes)
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


@pytest.mark.parametrize(("queries", "arrays"), [(77, 2), (3, 3)], ids=["whole", "in parts"])
def test_bytes_around_the_tensors_stay(queries, arrays, monkeypatch):
    """Guard zones of 4 KiB before and after each result, and the parts, keep their contents."""
    made = kernel(example("flash"))
    x = inputs(made, {**SIZES, "Sq": queries, "Skv": 1091})
    want = call(made, x)
    zones = []

    def guarded(tensor, shape, *, dtype):
        count = torch.Size(shape).numel()
        pad = 4096 // dtype.itemsize
        store = torch.full((count + 2 * pad,), 3.5, dtype=dtype, device=tensor.device)
        zones.append((store, pad))
        return store[pad : pad + count].view(shape)

    monkeypatch.setattr(torch.Tensor, "new_empty", guarded)
    got = call(made, x)
    monkeypatch.undo()
    equal(got, want)
    assert len(zones) == arrays
    for store, pad in zones:
        assert bool((store[:pad] == 3.5).all()) and bool((store[-pad:] == 3.5).all())
