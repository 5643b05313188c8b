"""Declarations kept in the cache: read back alike, and no parser on a hit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import attngen
import attngen.core.resources
from attngen.core.diagnostics import SpecError
from attngen.core.source import Source
from attngen.frontend import load
from attngen.ir.attention import Attention
from attngen.runtime.cache import Cache, Entry, pack, unpack
from attngen.runtime.interface import Interface
from attngen.runtime.specialise import Spec

ROOT = attngen.core.resources.PACKAGE.parent
SPECS = sorted((ROOT / "examples").glob("*.attn"))


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_declarations_come_back_from_the_cache(path: Path):
    attention = load(Source(path.name, path.read_text()), {})
    if not isinstance(attention, Attention):
        pytest.skip("a recurrence")
    interface = Interface.of(attention)
    stored = unpack("k", pack("k", Entry(interface.stored())))
    assert Interface.restored(stored.meta) == interface


def test_formulas_are_read_again_when_asked_for():
    source = Source("flash", (ROOT / "examples" / "flash.attn").read_text())
    attention = load(source, {})
    spec = Spec(source, {}, Interface.of(attention), {})
    assert spec.attention == attention
    assert Spec(source, {}, attention, {}).interface == spec.interface


def test_sizes_and_params_come_back():
    text = (
        "attention a {\n  param w = 3\n  query q : half[B, H, S, D]\n  key k : half[B, H, S, D]\n"
        "  value v : half[B, H, S, D]\n  mask = q_pos - kv_idx < w\n"
        "  out = sum(softmax(dot(q, k)) * v)\n}"
    )
    made = [attngen.compile(text, D=64, w=5) for _ in range(2)]
    assert [(k.sizes, k.spec.params) for k in made] == [({"D": 64}, {"w": 5})] * 2
    assert isinstance(made[1].spec.meaning, Interface)
    assert made[0].spec.attention == made[1].spec.attention
    other = attngen.compile(text, D=64, w=6)
    assert other.spec.attention != made[0].spec.attention


def test_mistakes_are_never_kept():
    for _ in range(2):
        with pytest.raises(SpecError):
            attngen.compile("attention a { query q : half[B, H, S, D] out = nothing }")
    assert [*Cache().folder.glob("*.agk")] == []
    for _ in range(2):
        with pytest.raises(SpecError, match="E407"):
            attngen.compile(ROOT / "examples" / "flash.attn", backend="other")


HIT = """
import sys, attngen, torch
kernel = attngen.compile("examples/flash.attn")
q = torch.randn(1, 2, 20, 16).half()
kernel(q, q, q)
print(sorted({"lark", "jinja2", "attngen.ir.expr", "attngen.passes"} & set(sys.modules)))
print(len(kernel.explain()) > 100)
"""


def test_a_hit_imports_neither_parser_nor_passes(tmp_path):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    found = [
        subprocess.run(
            [sys.executable, "-c", HIT],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            cwd=ROOT,
        ).stdout.splitlines()
        for _ in range(2)
    ]
    assert "lark" in found[0][0]
    assert found[1] == ["[]", "True"]
