import itertools

import torch

from attngen.core.source import Source
from attngen.frontend import load
from attngen.reference.execute import matched, reference
from attngen.reference.generate import FEATURES, random_spec, render, settle, shrink
from attngen.reference.inputs import make_inputs


def test_every_spec_is_valid():
    for seed in range(200):
        spec = random_spec(seed)
        program = load(Source(f"seed {seed}", spec.text))
        assert program.name == f"random_{seed}"


def test_every_spec_runs():
    for seed in range(1000, 1030):
        spec = random_spec(seed)
        program = load(Source(f"seed {seed}", spec.text))
        half = getattr(torch, spec.half)
        tensors = make_inputs(program, spec.sizes, seed, half=half)
        golden = reference(program, tensors)
        for want, got in zip(golden, matched(program, tensors, half), strict=True):
            assert want.shape == got.shape
        for (name, _), value in zip(program.outputs, golden, strict=True):
            assert name != "out" or torch.isfinite(value).all(), spec.text


def test_a_seed_is_a_configuration():
    assert random_spec(7) == random_spec(7)
    assert len({random_spec(seed).text for seed in range(200)}) > 190


def test_pairs_of_features_are_covered():
    """Every feature appears, and nearly all pairs that can stand together do."""
    seen = set()
    for seed in range(1500):
        seen.update(itertools.combinations(sorted(random_spec(seed).features), 2))
    possible = set()
    for a, b in itertools.combinations(sorted(FEATURES), 2):
        if any({a, b} <= settle(seed, frozenset({a, b, "causal", "window"})) for seed in range(4)):
            possible.add((a, b))
    assert len(possible) > 1000
    assert len(possible & seen) > 0.97 * len(possible), sorted(possible - seen)


def test_only_allowed_features():
    allowed = {"causal", "window", "softcap", "grouped", "lse"}
    for seed in range(50):
        assert random_spec(seed, allowed).features <= allowed


def test_shrinking_keeps_the_cause():
    """A failure that needs two features and more than 20 queries ends with little else."""
    cause = {"softcap", "causal"}

    def fails(spec):
        load(Source("spec", spec.text))  # every step is valid too
        return cause <= spec.features and max(spec.sizes.get(n, 0) for n in ("S", "Sq", "T")) > 20

    start = next(s for s in map(random_spec, range(3000)) if fails(s) and len(s.features) > 8)
    small = shrink(start, fails)
    assert small.features == cause
    assert small.sizes["S"] == 21 and small.sizes["D"] == 16
    assert fails(small)


def test_leaving_a_feature_out_changes_nothing_else():
    features = frozenset({"window", "softcap", "sink"})
    sizes = {"B": 1, "H": 1, "S": 16, "D": 16}
    one = render(5, features, sizes).text.split("\n")
    two = render(5, features - {"sink"}, sizes).text.split("\n")
    assert [line for line in one if "sink" not in line] == two
