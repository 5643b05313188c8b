"""The documents tell the truth: their specs check, their links lead somewhere."""

import re
from pathlib import Path

import pytest

from attngen.core.source import Source
from attngen.frontend import load

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
SPECS = [
    (f"{path.name}:{number}", block)
    for path in DOCUMENTS
    for number, block in enumerate(
        re.findall(r"^```(?:attn)?\n((?:#.*\n)?attention .*?)^```", path.read_text(), re.M | re.S)
    )
]


@pytest.mark.parametrize("text", [s for _, s in SPECS], ids=[n for n, _ in SPECS])
def test_every_spec_in_the_documents_checks(text):
    load(Source("document", text), {})


def test_there_are_specs_in_the_documents():
    assert len(SPECS) >= 5


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    missing = [link for link in links if not (path.parent / link).exists()]
    # kernels and reports appear with the first run of `make golden` and of the benchmark
    assert [m for m in missing if not m.startswith(("generated", "bench/results"))] == []


def test_readme_names_the_two_commands_in_order():
    text = (ROOT / "README.md").read_text()
    assert 0 < text.index("make demo") < text.index("make test")


def test_the_kernel_shown_in_the_readme_is_the_kernel():
    text = (ROOT / "README.md").read_text()
    shown = re.search(r"as printed.*?```python\n(.*?)```", text, re.S)[1]
    assert shown in (ROOT / "generated/gemma2/sm_90/gemma2.py").read_text()
