"""Random specs for differential tests: valid by construction, the seed is the whole configuration.

A spec is rendered from a seed, a set of features and sizes. Every decision draws from a generator
of its own, keyed by the seed and the decision's name, so leaving a feature out changes nothing
else: that is what makes a failure shrink. Swarm testing: each seed enables a random half of the features
(Groce et al., "Swarm testing", ISSTA 2012).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from attngen.reference.generate_parts import COMBINES, MASKS, OUTPUTS, SCORES, Parts

LAYOUTS = ("token_major", "grouped", "one_kv_head", "value_width", "cross", "no_batch", "packed")
GATES = ("gate", "head_gate")
OTHERS = ("f32", "f16", "dropout", "explicit_out", "mask_or", "mask_not")
FEATURES = frozenset([*LAYOUTS, *GATES, *OTHERS, *MASKS, *SCORES, *COMBINES, *OUTPUTS])

LENGTHS = (1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 200)
WIDTHS = (16, 32, 40, 64, 80, 96)
MOST_MASKS, MOST_SCORES, MOST_OUTPUTS = 3, 4, 3

RARE = ("packed", "no_batch", "no_sum")

# a feature that cannot stand beside another: the first of a line wins
_EXCLUSIVE = (
    ("packed", "no_batch", "token_major"),
    ("packed", "cross"),
    ("no_batch", "grouped"),
    ("no_batch", "one_kv_head"),
    ("grouped", "one_kv_head"),
    ("packed", "gate"),
    ("gate", "head_gate"),
    ("f32", "f16"),
)


@dataclass(frozen=True)
class GeneratedSpec:
    """A spec with the sizes to call it with.

    half: what `half` is this time, "bfloat16" or "float16". features: what the text uses.
    """

    text: str
    sizes: dict[str, int] = field(hash=False)
    features: frozenset[str]
    half: str
    seed: int


def random_spec(seed: int, allowed: Iterable[str] | None = None) -> GeneratedSpec:
    """The spec of a seed. allowed: features to draw from (all); the rest never appears."""
    pool = sorted(FEATURES if allowed is None else FEATURES & set(allowed))
    rng = random.Random(f"{seed}:swarm")
    enabled = frozenset(rng.sample(pool, (len(pool) + 1) // 2))
    # these exclude many others: without this most pairs of features would never be seen together
    enabled -= {f for f in RARE if rng.random() < 0.7}
    if rng.random() < 0.3:
        enabled -= set(COMBINES)
    features = settle(seed, enabled)
    return render(seed, features, _draw_sizes(seed, features))


def render(seed: int, features: frozenset[str], sizes: dict[str, int]) -> GeneratedSpec:
    """The spec with exactly these features (`settle` makes a consistent set) and sizes."""
    parts = Parts(seed, features)
    half = "float16" if "f16" in features else "bfloat16"
    return GeneratedSpec(parts.text(), sizes, features, half, seed)


def settle(seed: int, enabled: frozenset[str]) -> frozenset[str]:
    """A consistent subset: conflicts resolved, at most a few masks, score terms and results."""
    kept = set(enabled)
    for group in _EXCLUSIVE:
        present = [f for f in group if f in kept]
        kept -= set(present[1:])
    if kept & {"packed", "no_batch"}:
        kept -= {*_needs_positions(kept)}
    for name, pool, most in (
        ("mask", MASKS, MOST_MASKS),
        ("score", SCORES, MOST_SCORES),
        ("combine", COMBINES, 1),
        ("output", OUTPUTS, MOST_OUTPUTS),
    ):
        present = sorted(f for f in pool if f in kept)
        rng = random.Random(f"{seed}:{name}")
        kept -= set(present) - set(rng.sample(present, min(most, len(present))))
    return frozenset(_drop_idle(kept))


def shrink(spec: GeneratedSpec, fails: Callable[[GeneratedSpec], bool]) -> GeneratedSpec:
    """A smaller spec that still fails: features dropped, then sizes cut, until nothing helps.

    `fails` must be true of `spec`; it is called a few dozen times.
    """
    while True:
        smaller = next((s for s in _smaller(spec) if fails(s)), None)
        if smaller is None:
            return spec
        spec = smaller


def _smaller(spec: GeneratedSpec) -> Iterable[GeneratedSpec]:
    for feature in sorted(spec.features):
        features = settle(spec.seed, spec.features - {feature})
        if features < spec.features:
            yield render(spec.seed, features, _fit_sizes(spec.seed, features, spec.sizes))
    for name, size in spec.sizes.items():
        for less in sorted({1, 16, size // 2, size - 1}):
            if 0 < less < size and _may_be(name, less, spec):
                yield replace(spec, sizes={**spec.sizes, name: less})


def _may_be(name: str, size: int, spec: GeneratedSpec) -> bool:
    """Whether the axis can have that size beside the others."""
    if name in ("D", "Dv"):
        return size in (16, 32)
    if name == "Hkv":
        return spec.sizes["Hq"] % size == 0
    return name != "Hq" or size % spec.sizes.get("Hkv", 1) == 0


def _drop_idle(kept: set[str]) -> set[str]:
    """Without features that would leave no trace in the text."""
    masks = len(kept & set(MASKS))
    if masks < 2:
        kept = kept - {"mask_or"}
    if masks < 1:
        kept = kept - {"mask_not"}
    if "no_sum" in kept:
        kept = kept - {"gate", "head_gate", "dropout", "explicit_out", "value_width"}
        if not kept & {"argmin", "argmax", "topk", "max_score", "lse"}:
            kept = kept | {"argmax"}
    if kept & set(COMBINES):
        kept = kept - {"explicit_out"}
    if kept & {"sigmoid_sum", "relu_ratio", "differential", "parallax", "no_sum"}:
        kept = kept - {"dropout"}
    return kept


def _needs_positions(kept: set[str]) -> Iterable[str]:
    """Features whose inputs are indexed by batch and position in a padded layout."""
    yield from ("documents", "prefix", "row_start", "key_length", "given_mask")
    yield from ("row_term", "column_term", "bias")
    if "no_batch" in kept:
        yield from ("head_window", "alibi", "table", "sink", "head_gate", "differential", "gate")


def _draw_sizes(seed: int, features: frozenset[str]) -> dict[str, int]:
    """Sizes of every axis; short sequences are likelier, large ones keep the rest small."""
    rng = random.Random(f"{seed}:sizes")
    weights = [8 if n < 64 else 4 if n <= 129 else 1 for n in LENGTHS]
    one, two = rng.choices(LENGTHS, weights, k=2)
    if rng.random() < 0.02:
        one = 0
    sizes = {"S": one} if "cross" not in features else {"Sq": one, "Skv": two}
    if "packed" in features:
        sizes = {"T": one}
    sizes["D"] = rng.choice(WIDTHS)
    sizes["Dv"] = rng.choice(WIDTHS)
    small = max(one, two) > 100
    sizes["B"] = 3 if "packed" in features else 1 if small else rng.choice((1, 2))
    sizes["Hq"], sizes["Hkv"] = rng.choice(((4, 2), (6, 2), (3, 1), (2, 2)))
    sizes["H"] = 1 if small else rng.choice((1, 2, 3))
    return _fit_sizes(seed, features, sizes)


def _fit_sizes(seed: int, features: frozenset[str], sizes: dict[str, int]) -> dict[str, int]:
    """The sizes of the axes the text names."""
    names = {"D"} | ({"Sq", "Skv"} if "cross" in features else {"S"})
    names = {"D", "T"} if "packed" in features else names
    if "value_width" in features:
        names.add("Dv")
    if "no_batch" not in features:
        names |= {"B"} | ({"Hq", "Hkv"} if "grouped" in features else {"H"})
    length = next((sizes[n] for n in ("S", "Sq", "T") if n in sizes), 16)
    fallback = {"H": sizes.get("Hq", 2), "B": 1, "D": 16, "Dv": 16, "Hq": 4, "Hkv": 2}
    return {name: sizes.get(name, fallback.get(name, length)) for name in sorted(names)}
