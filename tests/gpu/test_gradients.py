"""Gradients on a GPU: default schedules, ragged tiles, torch.compile with inductor, CUDA graphs."""

import pytest
import torch

from tests.differential.gradients import (
    DIFFERENTIABLE,
    gradient_problems,
    kernel_gradients,
    leaves,
    names,
)
from tests.differential.harness import DTYPES, axes, call, example, inputs, kernel, problems
from tests.differential.pass_cases import ROWS, made
from tests.differential.split_cases import COUNTS, KEY_HEADS, key_heads
from tests.differential.test_captured_gradients import ELEMENTS, made_of
from tests.differential.test_gradients_of_lists import LONG, STREAMS

pytestmark = pytest.mark.gpu

LENGTHS = ((257, 257), (65, 65), (1, 1))


@pytest.mark.parametrize("half", DTYPES)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_examples(name: str, half: str):
    made = kernel(example(name))
    for q_len, kv_len in LENGTHS:
        sizes = {"B": 2, "H": 2, "Hq": 4, "Hkv": 2, "D": 64, "Dv": 64}
        tensors = inputs(made, sizes | axes(name, q_len, kv_len), 3, half=DTYPES[half])
        assert not gradient_problems(made, tensors, DTYPES[half])
    assert made.compilations <= 3


@pytest.mark.parametrize("loads", ["descriptor", "pointer"])
def test_odd_widths(loads: str):
    """Rows over which no descriptor fits, in arguments, results and incoming gradients."""
    made = kernel(example("flash"), loads=loads)
    sizes = {"B": 2, "H": 2, "Sq": 130, "Skv": 200, "D": 36, "Dv": 20}
    for permuted in (False, True):
        tensors = inputs(made, sizes, 1, half=torch.float16, permuted=permuted)
        assert not gradient_problems(made, tensors, torch.float16)


@pytest.mark.parametrize("half", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_rows_of_an_earlier_pass(name: str, half: str):
    it = made(ROWS[name])
    for width in (64, 80):
        sizes = {"B": 2, "Hq": 4, "Hkv": 2, "Sq": 130, "Skv": 257, "D": width}
        tensors = inputs(it, sizes, 5, half=DTYPES[half])
        assert not problems(it, tensors, DTYPES[half])
        assert not gradient_problems(it, tensors, DTYPES[half])


@pytest.mark.parametrize("half", ["bf16", "f32"])
@pytest.mark.parametrize("name", KEY_HEADS)
def test_keys_with_heads_of_their_own(name: str, half: str):
    it = kernel(key_heads(name))
    sizes = {**COUNTS, "B": 2, "Sq": 70, "Skv": 130, "D": 64, "Dv": 64}
    assert not gradient_problems(it, inputs(it, sizes, 3, half=DTYPES[half]), DTYPES[half])


@pytest.mark.parametrize("half", ["bf16", "f32"])
@pytest.mark.parametrize("name", ELEMENTS)
def test_elements_of_captured_inputs(name: str, half: str):
    captured, score, rows = ELEMENTS[name]
    body = f"s = 0.125 * dot(q, k)\n  out = sum(softmax({score}) * {rows})\n  return out"
    it = made_of("groups", captured, body)
    sizes = {"B": 2, "Hq": 4, "Hkv": 2, "Sq": 70, "Skv": 130, "Long": 200, "D": 64, "Dv": 64}
    assert not gradient_problems(it, inputs(it, sizes, 1, half=DTYPES[half]), DTYPES[half])


@pytest.mark.parametrize("name", LONG)
def test_long_lists(name: str):
    it = kernel(f"attention made_up {{ {STREAMS} {LONG[name]} \n}}")
    sizes = {"B": 2, "Hq": 4, "Hkv": 2, "Sq": 70, "Skv": 130, "D": 64}
    assert not gradient_problems(it, inputs(it, sizes, 3, half=torch.bfloat16), torch.bfloat16)


def test_inductor():
    made = kernel(example("flash"))
    compiled = torch.compile(lambda **x: made(**x)[0] * 2, fullgraph=True, dynamic=True)
    for length in (70, 200):
        sizes = {"B": 2, "H": 2, "Sq": length, "Skv": length, "D": 64, "Dv": 64}
        tensors = inputs(made, sizes, 1, half=torch.bfloat16)
        one, two = leaves(made, tensors), leaves(made, tensors)
        compiled(**one).float().sum().backward()
        (call(made, two)[0] * 2).float().sum().backward()
        assert all(torch.equal(one[n].grad, two[n].grad) for n in names(made))


def test_a_training_step_in_a_cuda_graph():
    made = kernel(example("flash"))
    sizes = {"B": 2, "H": 2, "Sq": 100, "Skv": 100, "D": 64, "Dv": 64}
    given = leaves(made, inputs(made, sizes, 1, half=torch.bfloat16))
    wanted = [given[n] for n in names(made)]

    def step() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(call(made, given)[0].float().square().sum(), wanted)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        want = step()
        step()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_two_runs_give_the_same_bits():
    made = kernel(example("relative_bias"))
    sizes = {"B": 2, "H": 4, "S": 513, "D": 64}
    kernel_gradients(made, inputs(made, sizes, 1, half=torch.bfloat16))
