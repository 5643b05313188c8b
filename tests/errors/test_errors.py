"""Every mistake has one exact message, and every code of the front end has a mistake."""

import re
from pathlib import Path

import pytest

import attngen
from tests.errors.cases import cases, message
from tests.errors.python import python_cases

PACKAGE = Path(attngen.__file__).parent


@pytest.mark.parametrize("path", cases(), ids=lambda p: p.stem)
def test_message(path):
    assert message(path) == path.with_suffix(".stderr").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", cases(), ids=lambda p: p.stem)
def test_message_has_code_place_and_fix(path):
    text = message(path)
    codes = re.findall(r"^error\[(E\d{3})\]", text, re.MULTILINE)
    assert codes
    assert text.count("= help: ") == len(codes)
    if path.stem.startswith("E"):
        assert codes[0] == path.stem[:4]


def test_every_code_has_a_file():
    sources = [*PACKAGE.glob("syntax/*.py"), *PACKAGE.glob("frontend/*.py")]
    used = {c for s in sources for c in re.findall(r'"(E\d{3})"', s.read_text(encoding="utf-8"))}
    messages = [message(p) for p in cases()]
    messages += [python_cases.message(p) for p in python_cases.cases()]
    covered = {c for text in messages for c in re.findall(r"error\[(E\d{3})\]", text)}
    assert used - covered == set()


def test_no_file_without_message():
    assert {p.stem for p in Path(__file__).parent.glob("*.stderr")} == {p.stem for p in cases()}
