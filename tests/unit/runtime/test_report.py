"""`explain`: the report of every example that compiles, masks in words, predictions."""

from pathlib import Path

import pytest

from attngen.core.diagnostics import SpecError
from attngen.core.dtype import Dtype
from attngen.core.resources import PACKAGE
from attngen.core.source import Source
from attngen.core.target import find_target
from attngen.frontend import load
from attngen.ir.index import TRUE, Element, number, of, var
from attngen.ir.index_build import both, either, equal, le, lt
from attngen.passes.pipeline import build_program
from attngen.runtime.interface import feature_names
from attngen.runtime.predict import predict, products_per_pair
from attngen.runtime.report import explain
from attngen.runtime.support import require_supported
from attngen.runtime.words import describe_mask
from attngen.schedule.schedule import Schedule

EXAMPLES = sorted((PACKAGE.parent / "examples").glob("*.attn"))
SCHEDULE = Schedule(128, 64, 4, 2, "pointer")
MISSING = {
    "block_list": "E402",
    "moba": "E402",
    "decode_paged_fp8": "E403",
    "gla": "E401",
    "gram": "E401",
    "kda": "E401",
    "mamba2": "E401",
    "lightning": "E401",
    "gated_delta_net": "E401",
}
Q, K = var("q"), var("k")
SHIFT = var("kv_len") - var("q_len")


def checked(path: Path):
    return load(Source(path.name, path.read_text()), {})


def program(name: str):
    attention = require_supported(checked(PACKAGE.parent / "examples" / f"{name}.attn"))
    sizes = dict.fromkeys(feature_names(attention), 128)
    return build_program(attention, sizes, Dtype.BF16)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_is_explained_or_refused_with_a_reason(path):
    try:
        attention = require_supported(checked(path))
    except SpecError as error:
        assert MISSING[path.stem] == error.diagnostics[0].code
        assert "not built yet" in str(error)
        assert all(d.span and d.help for d in error.diagnostics)
        return
    sizes = dict.fromkeys(feature_names(attention), 128)
    report = explain(
        build_program(attention, sizes, Dtype.BF16), SCHEDULE, find_target("sm_80"), {}, ["a note"]
    )
    for section in ("formula", "over the keys", "mask", "schedule for sm_80", "predicted"):
        assert section in report
    assert report.endswith("notes\n  a note\n") or "\n  a note\n" in report


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        (TRUE, "Every query sees every key."),
        (le(K, Q), "A query sees keys at or before its own position (causal)."),
        (le(K, Q + SHIFT), "A query sees keys at or before its own position (causal)."),
        (lt(K, Q), "A query sees keys before its own position."),
        (le(K, Q - 5), "A query sees keys at least 5 before its own position."),
        (le(K, Q + 5), "A query sees keys up to 5 after its own position."),
        (lt(Q, K + 128), "A query sees keys no more than 127 behind it (a window of 128)."),
        (lt(Q + SHIFT, K + var("w")), "A query sees keys no more than w - 1 behind it."),
        (le(Q, K), "A query sees keys at or after its own position."),
        (lt(K, number(7)), "A query sees keys with kv_idx <= 6."),
        (le(3 - K, 0), "A query sees keys with 3 <= kv_idx."),
        (
            equal(of(Element("doc", (Q,))), of(Element("doc", (K,)))),
            "A query sees keys with the same doc.",
        ),
        (
            either(
                lt(of(Element("c", (Q,))), of(Element("c", (K,)))),
                lt(of(Element("c", (K,))), of(Element("c", (Q,)))),
            ),
            "A query sees keys with another c.",
        ),
        (
            both(le(K, Q), lt(Q, K + 3)),
            "A query sees keys at or before its own position (causal), of these only keys no more"
            " than 2 behind it (a window of 3).",
        ),
    ],
)
def test_masks_in_words(formula, words):
    assert describe_mask(formula) == words


def test_predictions_of_causal_attention():
    cost = predict(program("flash"), SCHEDULE, {"Sq": 1024, "Skv": 1024, "H": 2, "B": 3})
    assert (cost.all_tiles, cost.tiles, cost.full) == (128, 72, 56)
    assert cost.flops == 72 * 128 * 64 * 6 * 4 * 128
    assert cost.bytes == 3 * 2 * 1024 * (4 * 128 * 2 + 4)


def test_predictions_say_when_they_depend_on_contents():
    cost = predict(program("alibi_documents"), SCHEDULE, {})
    assert cost.tiles is None
    assert "doc" in cost.why
    assert cost.flops == cost.all_tiles * 128 * 64 * 16 * 4 * 128


def test_products_count_shared_dots_once():
    assert products_per_pair(program("flash")) == 4 * 128
    assert products_per_pair(program("parallax")) == 8 * 128
    assert products_per_pair(program("knn")) == 2 * 128


def test_the_report_of_gemma2():
    report = explain(program("gemma2"), SCHEDULE, find_target("sm_90"), {"Sq": 8192, "Skv": 8192})
    assert "the score lies in [-50, 50], so no running maximum is needed" in report
    assert "out = acc_v / sum_p\n" in report
    assert "of these only keys no more than 4095 behind it (a window of 4096)" in report
    assert "Sq = 8192" in report
