"""The CuTe backward as text: what it does, what it leaves to Triton, and its bounds on masks."""

import types

import pytest
import torch

from attngen.backend.cute.backward.emit import emit_cute_backward
from attngen.backend.cute.backward.shape import missing
from attngen.backend.triton.backward.program import backward_program
from attngen.core.dtype import Dtype
from attngen.core.resources import resource
from attngen.core.source import Source
from attngen.core.target import find_target
from attngen.frontend import load
from attngen.passes.differentiate import differentiate
from attngen.passes.pipeline import build_program
from attngen.runtime.backward_backend import choose_backward_backend
from attngen.runtime.load import check_source
from attngen.schedule.backward import choose_backward
from attngen.schedule.cute_backward import CuteBackwardSchedule

TARGET = find_target("sm_90")
SIZES = {"D": 128, "Dv": 128, "Dr": 64}


def program(text: str, sizes=None, half: str = "bf16"):
    made = build_program(load(Source("x", text), {}), {**SIZES, **(sizes or {})}, Dtype(half))
    return made, differentiate(made.attention, made.online)


def example(name: str) -> str:
    return resource("examples", f"{name}.attn").read_text()


def emitted(text: str, sizes=None, **schedule):
    made, plan = program(text, sizes)
    rows = choose_backward(made, TARGET).rows
    return emit_cute_backward(made, plan, CuteBackwardSchedule(rows, **schedule), TARGET)


@pytest.mark.parametrize("name", ["flash", "gemma2", "sinks_gated", "alibi_documents", "prefix_lm"])
def test_files_hold_nothing_but_a_kernel(name):
    one, two = emitted(example(name)), emitted(example(name))
    check_source(one.source)
    assert one == two
    assert max(map(len, one.source.split("\n"))) <= 110


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sigmoid", "0 normalisers"),
        ("differential", "2 normalisers"),
        ("parallax", "5 products for gradients of rows (three are built)"),
        ("relative_bias", "a gradient per pair (bias, table)"),
        ("forgetting", "a sum of numbers per key (d_cum)"),
        ("varlen", "packed sequences"),
        ("dropout", "inputs of 64 bits"),
        ("mla", "columns of k that are a part of its rows"),
    ],
)
def test_what_is_left_to_triton(name, reason):
    made, plan = program(example(name))
    assert missing(backward_program(made, plan)) == [reason]


@pytest.mark.parametrize(
    ("sizes", "half", "reason"),
    [
        ({"D": 256, "Dv": 256}, "bf16", "keys and values of 256 and 256 columns"),
        ({"D": 80, "Dv": 80}, "bf16", "q of 80 columns (a multiple of 64 is needed)"),
        ({}, "f32", "rows of other dtypes than one 16-bit float"),
    ],
)
def test_sizes_left_to_triton(sizes, half, reason):
    made, plan = program(example("flash"), sizes, half)
    assert missing(backward_program(made, plan))[0].startswith(reason)


def test_weight_and_derivative():
    text = emitted(example("flash")).source
    assert "p = ops.exp2(ops.fma(s, 0.12751743082459868, -norm_0))\n    return p, p\n" in text
    assert "return kept * (product - delta)" in text


def test_one_register_carries_a_softcap():
    text = emitted(example("gemma2")).source
    assert "x = ops.tanh(0.0017677669529663686 * s)" in text
    assert "return p, p * (1.0 - x * x)" in text


def test_row_terms_leave_the_tiles():
    """The slope times the query's position is in the normaliser that the rows kernel stores."""
    text = emitted(example("alibi_documents")).source
    rows, tiles = text.split("def per_tile", 1)
    assert "slope" in rows
    assert "return at.slope_scaled * ops.real(kv_idx - at.row0)" in tiles
    assert "d_slope = d_slope_parts.sum(-1)" in tiles


def test_sums_in_any_order_need_no_turns():
    assert "turns = torch.zeros(" in emitted(example("flash")).source
    assert "turns = " not in emitted(example("flash"), ordered=False).source


class Plain:
    """What bounds are written with, on Python's numbers."""

    maximum, minimum = staticmethod(max), staticmethod(min)

    @staticmethod
    def select(condition, a, b):
        return a if condition else b

    @staticmethod
    def load(tensor, *index):
        return tensor[index].item()

    @staticmethod
    def hull(*ranges):
        real = [r for r in ranges if r[0] < r[1]] or [(0, 0)]
        return min(r[0] for r in real), max(r[1] for r in real)

    @staticmethod
    def longest(*ranges):
        return max(ranges, key=lambda r: r[1] - r[0])


def hooks(text: str):
    scope = {"ops": Plain}
    source = emitted(text).source
    exec(source[source.index("def tiles(at)") : source.index("PLAN = ")], scope)
    return types.SimpleNamespace(**scope)


DOCUMENTS = torch.tensor([[0] * 70 + [1] * 3 + [4] * 200 + [5] * 60 + [9] * 7])
PREFIX = torch.tensor([150])
MASKS = {
    "flash": lambda q, k, n: k <= q + n,
    "gemma2": lambda q, k, n: (k <= q + n) & (q + n - k < 4096),
    "sinks_gated": lambda q, k, n: (k <= q + n) & (q + n - k < 128),
    "alibi_documents": lambda q, k, n: (DOCUMENTS[0][q] == DOCUMENTS[0][k]) & (k <= q),
    "prefix_lm": lambda q, k, n: (k <= q) | (k < PREFIX[0]),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(("q_len", "kv_len"), [(340, 340), (100, 333), (300, 129), (1, 65)])
def test_walks_cover_the_mask(name, q_len, kv_len):
    """Each kept pair is visited, full ranges drop no pair, and limits of a key are the mask."""
    if name in ("alibi_documents", "prefix_lm"):
        q_len = kv_len
    made = hooks(example(name))
    q, k = torch.arange(q_len)[:, None], torch.arange(kv_len)[None, :]
    kept = MASKS[name](q, k, kv_len - q_len)
    documents = DOCUMENTS[:, :kv_len].contiguous()
    at = types.SimpleNamespace(q_len=q_len, kv_len=kv_len, b=0, h=0, prefix=PREFIX)
    at.doc_ends = torch.searchsorted(documents, documents, right=True)
    at.key = lambda kv_idx: min(kv_idx, kv_len - 1)
    for block in range(0, kv_len, 128):
        at.col0, at.col1 = block, min(block + 128, kv_len)
        low, high, full_low, full_high = made.tiles(at)
        mine = kept[:, block : at.col1]
        visited = torch.zeros(q_len, dtype=torch.bool)
        visited[max(low, 0) : max(high, 0)] = True
        assert not mine[~visited].any()
        if full_low < full_high:
            assert mine[max(full_low, 0) : full_high].all()
        if hasattr(made, "keep"):
            continue
        for key in range(block, at.col1):
            first = made.first_query(at, key) if hasattr(made, "first_query") else 0
            end = made.end_query(at, key) if hasattr(made, "end_query") else q_len
            inside = (q[:, 0] >= first) & (q[:, 0] < end)
            assert torch.equal(inside, kept[:, key])


@pytest.mark.parametrize(
    ("name", "nested"),
    [("flash", True), ("gemma2", False), ("alibi_documents", False), ("prefix_lm", False)],
)
def test_whose_turn_it_is(name, nested):
    """Only where earlier blocks of keys meet all queries that later ones do is a block its turn."""
    assert ("nested=True" in emitted(example(name)).source) is nested


@pytest.mark.parametrize(
    ("name", "target", "options", "backend", "reason"),
    [
        ("flash", "sm_90", {"backend": "cute"}, "cute", "asked for"),
        ("flash", "sm_90", {"backend": "triton"}, "triton", "asked for"),
        ("flash", "sm_80", {"backend": "cute"}, "triton", "the CuTe kernels are for sm_90"),
        ("parallax", "sm_90", {"backend": "cute"}, "triton", "CuTe backward kernels do not do 5"),
    ],
)
def test_choice(name, target, options, backend, reason):
    made, plan = program(example(name))
    choice = choose_backward_backend(backward_program(made, plan), find_target(target), options)
    assert choice.name == backend
    assert choice.reason.startswith(reason)
