"""Which backward kernels keep half a query row in registers: only what was seen right on a GPU."""

import pytest

from attngen.backend.triton.backward.emit import emit_backward
from attngen.core.dtype import Dtype
from attngen.core.resources import resource
from attngen.core.source import Source
from attngen.core.target import find_target
from attngen.frontend import load
from attngen.passes.differentiate import differentiate
from attngen.passes.pipeline import build_program
from attngen.schedule.backward import choose_backward


def source(name: str, width: int, target: str) -> str:
    text = resource("examples", f"{name}.attn").read_text()
    attention = load(Source(name, text), {})
    program = build_program(attention, {"D": width, "Dv": width}, Dtype.BF16)
    plan = differentiate(program.attention, program.online)
    where = find_target(target)
    return emit_backward(program, plan, choose_backward(program, where), where).source


@pytest.mark.parametrize(
    ("name", "width", "target", "halved"),
    [
        ("flash", 128, "sm_90", True),
        ("flash", 64, "sm_90", False),
        ("flash", 128, "sm_100", False),
        ("flash", 128, "sm_80", False),
        ("gemma2", 128, "sm_90", False),
        ("forgetting", 128, "sm_90", False),
    ],
)
def test_only_what_was_seen_right(name, width, target, halved):
    assert ("q = (q.to(tl.float32) * 0.5)" in source(name, width, target)) is halved
