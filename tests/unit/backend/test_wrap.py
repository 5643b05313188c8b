"""Wrapped text is the same program, in lines that fit."""

import ast
import textwrap

import pytest

from attngen.backend.triton.wrap import LONGEST, wrap_fact, wrap_source

NAME = "a_name_of_some_length"
SUM = " + ".join(f"{NAME}_{i}[:, None]" for i in range(8))
PRODUCT = " * ".join(f"({NAME}_{i} - 1)" for i in range(8))
LINES = {
    "sum": f"x = {SUM}",
    "arguments": f"x = f({', '.join(NAME for _ in range(12))})",
    "call in call": f"x = f(g({', '.join(NAME for _ in range(6))}), h({SUM}), other=0).to(y)",
    "product in brackets": f"x = f({PRODUCT})",
    "statement": f'store(p + {NAME}, where({SUM}, 0.0, float("-inf, + (")), mask=m)',
    "return": f"return a, b.sum((0, 1,)), {SUM}",
    "comment": f"x = {NAME}[{NAME}] + {NAME}  # {NAME} and {NAME}, in log2 units",
}


def function(body: str) -> str:
    return "def f():\n" + textwrap.indent(body, "    ")


@pytest.mark.parametrize("body", LINES.values(), ids=LINES)
def test_a_long_line_is_broken_and_means_the_same(body):
    before = function(body)
    after = wrap_source(before)
    assert len(before.split("\n")[1]) > LONGEST
    assert max(map(len, after.split("\n"))) <= LONGEST
    assert ast.dump(ast.parse(after)) == ast.dump(ast.parse(before))


def test_a_comment_goes_above_its_line():
    lines = wrap_source(function(LINES["comment"])).split("\n")
    assert lines[1] == f"    # {NAME} and {NAME}, in log2 units"
    assert "#" not in lines[2]


def test_what_fits_stays_as_it_is():
    text = function("x = f(a, b) + c  # [queries]\nfor n in tl.range(lo, hi, 64):\n    pass")
    assert wrap_source(text) == text


def test_the_header_is_not_code():
    long = "attention " + ", ".join(NAME for _ in range(10))
    text = f'"""{long}\n\n[attngen:generated]\n"""\nimport torch\n'
    assert wrap_source(text) == text


def test_a_fact_is_continued_with_an_indent():
    first, second = wrap_fact("Schedule: " + "block_q=64, " * 9).split("\n")
    assert first.startswith("Schedule") and second.startswith("  block_q")
