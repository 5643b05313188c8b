"""Specs that once failed, or nearly: each is valid, runs, and its baseline passes the rule."""

import re
from pathlib import Path

import pytest
import torch

from attngen.core.source import Source
from attngen.frontend import load
from attngen.reference.execute import matched
from attngen.reference.inputs import make_inputs
from attngen.reference.judge import judge, stream_dtype

HERE = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(HERE.glob("*.attn")), ids=lambda p: p.stem)
def test_corpus(path):
    text = path.read_text()
    program = load(Source(path.name, text))
    line = text.split("# sizes:")[1].split("\n")[0]
    sizes = {n: int(s) for n, s in re.findall(r"(\w+)=(\d+)", line)}
    half = getattr(torch, re.search(r"# half: (\w+)", text)[1])
    tensors = make_inputs(program, sizes, 0, half=half)
    results = matched(program, tensors, stream_dtype(program, half))
    verdicts = judge(program, tensors, results, half)
    assert all(verdicts.values()), verdicts
