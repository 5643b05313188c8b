from pathlib import Path

import pytest
import torch

from attngen.core.source import Source
from attngen.frontend import load
from attngen.reference.execute import matched
from attngen.reference.inputs import make_inputs
from attngen.reference.judge import judge

EXAMPLES = Path(__file__).parents[3] / "examples"
SIZES = {"S": 40, "Sq": 24, "Skv": 40, "T": 50, "K": 20, "D": 16, "Dv": 24, "Dk": 16}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.attn")), ids=lambda p: p.stem)
def test_the_baseline_passes_and_a_spoilt_result_does_not(path):
    program = load(Source(path.name, path.read_text()))
    tensors = make_inputs(program, SIZES, 1)
    results = matched(program, tensors, torch.bfloat16)
    verdicts = judge(program, tensors, results, torch.bfloat16)
    assert list(verdicts) == [name for name, *_ in program.outputs]
    assert all(verdicts.values()), verdicts
    for number, name in enumerate(verdicts):
        spoilt = [x.clone() for x in results]
        last = spoilt[number]  # a row, or a number of a flat result
        while last.dim() > 1:
            last = last[-1]
        last[-1] = (
            (last[-1] + 3) % 20
            if not last.is_floating_point()
            else last[-1] + 0.5 * (1 + last[-1].abs())
        )
        assert not judge(program, tensors, spoilt, torch.bfloat16)[name], name


def test_packed_indices_are_held_against_their_own_sequence():
    text = """attention packed_argmax {
      query q : half[T, H, D] packed(cu_q)
      key k : half[T, H, D] packed(cu_kv)
      input cu_q : i32[B + 1]
      input cu_kv : i32[B + 1]
      out = argmax(dot(q, k))
    }"""
    program = load(Source("packed", text))
    tensors = make_inputs(program, {"T": 40, "H": 2, "D": 16})
    results = matched(program, tensors, torch.bfloat16)
    assert judge(program, tensors, results, torch.bfloat16)["out"]
    wrong = [results[0] + 1]
    assert "row" in judge(program, tensors, wrong, torch.bfloat16)["out"].message
