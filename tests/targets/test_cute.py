"""What the compiler makes of every CuTe kernel that is checked in, read from its machine code."""

from pathlib import Path

import pytest

import attngen
from attngen.core.target import find_target
from attngen.runtime.cache import Cache
from attngen.runtime.crosscompile import compile_for
from attngen.runtime.sass import Report, disassemble

pytest.importorskip("cutlass")
ROOT = Path(__file__).parents[2]
NAMES = sorted(x.parent.name for x in ROOT.glob("generated/*/sm_90_cute"))
# tiles run into each other: one step more
FLAT = {"gemma2", "alibi_documents", "sinks_gated", "varlen"}
# bytes of stack: rows to be redone, with a gate; of packed sequences
SPILLED = {"sinks_gated_forward_again": 40, "varlen_forward_again": 64}
SCORES = {"parallax": 32}  # of a thread in a step; 64 if not said
# waits: one of the first block and the last, two of a masked and a full one; twice as many where
# payloads have products of their own
WAITS = {name: 8 for name in FLAT} | {"parallax": 12}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> dict[str, dict[str, Report]]:
    """Reports of each example's kernels, by name."""
    cache = Cache(tmp_path_factory.mktemp("cache"))
    out = {}
    for name in NAMES:
        kernel = attngen.compile(ROOT / "examples" / f"{name}.attn", "sm_90", "cute")
        emitted = kernel.specialise().emitted
        binaries = compile_for(emitted, find_target("sm_90"), cache)
        assert {k.name for k in emitted.kernels} == {b.kernel for b in binaries}
        reports = [
            (b, next(r for r in disassemble(b.data) if r.name == b.symbol)) for b in binaries
        ]
        assert all(b.spills_bytes == r.stack for b, r in reports)
        out[name] = {b.kernel: r for b, r in reports}
    return out


def test_examples_are_checked_in():
    assert set(NAMES) > FLAT
    assert len(NAMES) >= 8


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_spilled_and_products_are_not_serialised(kernels, name):
    for kernel, report in kernels[name].items():
        assert report.stack <= SPILLED.get(kernel, 0), report.describe()
        assert bool(report.spills) == bool(report.stack)
        assert report.registers == 168  # as launched; the consumers take 240 from the producer
        # more waits: every product waits by itself
        redone = 3 if name in SCORES else 2
        expected = redone if kernel.endswith("_again") else WAITS.get(name, 6)
        assert report.waits == expected, report.describe()
        assert report.products >= 6 * report.waits
        assert report.count("UTMALDG")
        assert report.count("UTMASTG")


@pytest.mark.parametrize("name", NAMES)
def test_softmax_runs_beside_the_product(kernels, name):
    """The exponentials of a step stand above the wait for the product issued before them."""
    for kernel, report in kernels[name].items():
        if kernel.endswith("_again"):
            continue
        for loop in report.loops[:2]:  # the masked blocks, and the full ones
            above, below = loop.exponentials
            assert (loop.waits, below) == (4 if name in SCORES else 2, 0), report.describe()
            scores = SCORES.get(name, 64)  # each is exponentiated once; a rescale takes two more
            assert above in (scores, scores + 2)


@pytest.mark.parametrize("name", NAMES)
def test_what_redoes_tiles_is_little_to_compile(kernels, name):
    """One step, of which the other kernel has three or four."""
    for kernel, report in kernels[name].items():
        if kernel.endswith("_again"):
            other = kernels[name][kernel.removesuffix("_again")]
            assert report.products <= other.products / 3
            assert len(report.instructions) < 0.8 * len(other.instructions)
            assert report.loops[0].exponentials == (0, SCORES.get(name, 64) + 2)
