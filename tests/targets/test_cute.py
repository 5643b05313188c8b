"""What the compiler makes of CuTe kernels, read from their machine code: no GPU is needed."""

import re
from pathlib import Path

import pytest

import attngen
from attngen.core.target import find_target
from attngen.runtime.cache import Cache
from attngen.runtime.crosscompile import compile_for

pytest.importorskip("cutlass")
ROOT = Path(__file__).parents[2]

# example -> waits for products, of the kernel that runs first
CASES = {"flash": 6, "gemma2": 8, "alibi_documents": 8, "sinks_gated": 8, "differential": 6}
WAIT, PRODUCT, EXP2 = r"WARPGROUP\.DEPBAR", r"\bHGMMA", r"MUFU\.EX2"


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Machine code of each example's kernels, by name."""
    cache = Cache(tmp_path_factory.mktemp("cache"))
    out = {}
    for name in CASES:
        kernel = attngen.compile(ROOT / "examples" / f"{name}.attn", "sm_90", "cute")
        emitted = kernel.specialise().emitted
        out[name] = {b.kernel: b for b in compile_for(emitted, find_target("sm_90"), cache)}
        assert {k.name for k in emitted.kernels} == set(out[name])
    return out


def order(code: str) -> list[str]:
    """Products, waits and exponentials in the order they stand in."""
    found = re.finditer(f"(?P<wait>{WAIT})|(?P<product>{PRODUCT})|(?P<exp2>{EXP2})", code)
    return [m.lastgroup or "" for m in found]


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_spilled_and_products_are_not_serialised(kernels, name):
    first = [b for n, b in kernels[name].items() if not n.endswith("_again")]
    for binary in first:
        code = binary.assembly
        assert binary.spills_bytes == 0
        assert not re.search(r"\b(LDL|STL)\b", code)
        assert binary.registers == 168  # as launched; the consumers take 240 from the producer
        steps = order(code)
        assert steps.count("wait") == CASES[name]  # more of them: every product waits by itself
        assert steps.count("product") > 3 * steps.count("wait")
        assert re.search("UTMALDG", code)
        assert re.search("UTMASTG", code)


@pytest.mark.parametrize("name", ["flash", "gemma2", "alibi_documents", "sinks_gated"])
def test_softmax_runs_beside_the_product(kernels, name):
    """The exponentials of a step stand above the wait for the product issued before them."""
    code = next(b.assembly for n, b in kernels[name].items() if not n.endswith("_again"))
    steps = [x for x in order(code)]
    runs, last = [], ""
    for x in steps:
        if x != last:
            runs.append(x)
            last = x
    text = " ".join(runs)
    assert text.count("product wait exp2 wait") >= 2  # the masked loop and the full one
