"""The table in docs/flex.md is what the mask pass says."""

from tests.differential.flex_table import DOCUMENT, bounds, corpus, plan_of, with_table


def test_the_table_is_current():
    text = DOCUMENT.read_text()
    assert with_table(text) == text


def test_the_usual_masks_have_closed_forms():
    cases = corpus()
    names = ("causal", "sliding_window", "prefix_lm", "document_sorted", "masked_score")
    assert {n: bounds(plan_of(cases[n])) for n in names} == dict.fromkeys(names, "closed form")
