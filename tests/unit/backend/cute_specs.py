"""Specs for the CuTe backend, and their files as modules whose functions run on plain numbers."""

from __future__ import annotations

from types import SimpleNamespace

from attngen.core.dtype import Dtype
from attngen.core.source import Source
from attngen.core.target import find_target
from attngen.cutelib.ops import Position, integer
from attngen.frontend import load
from attngen.passes.pipeline import build_program
from attngen.runtime.backends import generate_cute

HEAD = """attention spec {
  query q : half[B, H, Sq, D]
  key   k : half[B, H, Skv, D]
  value v : half[B, H, Skv, D]
"""
SAME = HEAD.replace("Skv", "S").replace("Sq", "S")
SCORE = "  score = dot(q, k) * rsqrt(D)\n"
OUT = "  out = sum(softmax(score) * v)"


def spec(body: str, declared: str = "", head: str = HEAD, out: str = OUT) -> str:
    """A spec; `body` sets what is not the plain score."""
    score = "" if "score =" in body else SCORE
    return f"{head}{declared}\n{score}{body}\n{out}\n}}\n"


def program(text: str, half: Dtype = Dtype.BF16, size: int = 128):
    """The passes' result."""
    return build_program(load(Source("<test>", text), {}), {"D": size, "Dv": size}, half)


def emitted(text: str, options=None, half: Dtype = Dtype.BF16, size: int = 128):
    """(schedule, file) of a spec."""
    return generate_cute(program(text, half, size), find_target("sm_90"), options or {})


def plan(text: str, options=None, half: Dtype = Dtype.BF16, size: int = 128):
    """The plan of the (last) kernel."""
    scope: dict = {}
    exec(compile(emitted(text, options, half, size)[1].source, "<file>", "exec"), scope)
    return scope["FORWARD"].plan


class Numbers:
    """A tensor of Python numbers."""

    def __init__(self, values) -> None:
        self.values = values
        self.shape = []
        while isinstance(values, list):
            self.shape.append(len(values))
            values = values[0]

    def __getitem__(self, index):
        found = self.values
        for i in index:
            found = found[i]
        return found


class Run:
    """Starts of runs of equal elements, as the producer finds them."""

    def __init__(self, row, row0: int, row1: int) -> None:
        self.starts = [row.index(x) for x in row]
        self.first, self.last = self.starts[row0], self.starts[row1 - 1]

    def of(self, q):
        return self.starts[integer(q)]


def at(q_len: int, kv_len: int, row0: int, row1: int, **values):
    """What the functions see of a tile."""
    return SimpleNamespace(
        q_len=q_len,
        kv_len=kv_len,
        row0=row0,
        row1=row1,
        b=0,
        h=1,
        h_kv=1,
        row=lambda q: min(integer(q), q_len - 1),
        key=lambda k: min(integer(k), kv_len - 1),
        position=lambda q: Position(integer(q) + kv_len - q_len),
        **values,
    )
