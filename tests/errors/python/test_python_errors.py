"""Mistakes in Python front ends: exact messages, at the line and column of the Python file."""

import re

import pytest

from tests.errors.python.python_cases import FOLDER, cases, message


@pytest.mark.parametrize("path", cases(), ids=lambda p: p.stem)
def test_message(path):
    text = message(path)
    assert text == path.with_suffix(".stderr").read_text(encoding="utf-8")
    assert re.match(rf"error\[{path.stem[:4]}\]", text)
    assert text.count("= help: ") == text.count("error[")


def test_no_file_without_message():
    assert {p.stem for p in FOLDER.glob("*.stderr")} == {p.stem for p in cases()}
