"""Names a generated file needs for itself."""

import ast
import builtins

import pytest

from attngen.backend.triton.backward.emit import emit_backward
from attngen.backend.triton.emit import emit
from attngen.core.dtype import Dtype
from attngen.core.source import Source
from attngen.core.target import find_target
from attngen.frontend import load
from attngen.passes.differentiate import differentiate
from attngen.passes.pipeline import build_program
from attngen.passes.rename import rename_reserved, reserved
from attngen.schedule.backward import choose_backward
from attngen.schedule.choose import choose

SPEC = """attention a {
  query QUERY : half[B, H, S, D]
  key k : half[B, H, S, D]
  value v : half[B, H, S, D]
  input SCALAR : f32
  input TENSOR : f32[H]

  score = dot(QUERY, k) * SCALAR + TENSOR[h]
  mask  = causal
  out   = sum(softmax(score) * v)
}
"""


def program(text):
    return build_program(load(Source("<test>", text), {}), {"D": 64}, Dtype.BF16)


def test_reserved_names_change_and_others_stay():
    text = SPEC.replace("QUERY", "open").replace("SCALAR", "heads").replace("TENSOR", "slope")
    names = [t.name for t in program(text).attention.tensors]
    assert names == ["open_in", "k", "v", "heads_in", "slope"]


def test_a_name_that_is_free_is_found():
    text = SPEC.replace("QUERY", "open_in").replace("SCALAR", "open").replace("TENSOR", "k_ptr")
    names = [t.name for t in program(text).attention.tensors]
    assert names == ["open_in", "k", "v", "open_2", "k_ptr_in"]


def test_a_part_of_a_cut_tensor():
    text = SPEC.replace("QUERY", "q").replace("SCALAR", "q_1").replace("TENSOR", "w_3")
    names = [t.name for t in program(text).attention.tensors]
    assert names == ["q", "k", "v", "q_1_in", "w_3_in"]


def test_without_a_reserved_name_nothing_is_built_again():
    text = SPEC.replace("QUERY", "q").replace("SCALAR", "c").replace("TENSOR", "t")
    spec = load(Source("<test>", text), {})
    assert rename_reserved(spec) is spec


@pytest.mark.parametrize("name", sorted(n for n in dir(builtins) if n.islower() and n[0] != "_"))
def test_builtins_are_reserved(name):
    assert reserved(name)


def kernels(made) -> list[ast.Module]:
    """The file for long queries, the one for short queries, and the backward."""
    target = find_target("sm_90")
    schedules = [choose(made, target, short=short) for short in (False, True)]
    files = [emit(made, schedule, target) for schedule in schedules]
    plan = differentiate(made.attention, made.online)
    files.append(emit_backward(made, plan, choose_backward(made, target), target))
    return [ast.parse(file.source) for file in files]


def own_words() -> set[str]:
    """Identifiers of the kernels of SPEC that no user's name gave them."""
    text = SPEC.replace("QUERY", "q").replace("TENSOR", "t").replace("SCALAR", "c")
    found = set()
    for tree in kernels(program(text)):
        found |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        found |= {a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)}
    return found - {"q", "k", "v", "t", "c", "out"}


@pytest.mark.parametrize("word", sorted(own_words()))
def test_a_scalar_may_have_any_name_the_kernel_uses(word):
    """The scalar's parameter is neither shadowed nor a duplicate: its name is assigned nowhere."""
    text = SPEC.replace("QUERY", "q").replace("TENSOR", "t").replace("SCALAR", word)
    try:
        made = program(text)
    except Exception as error:
        assert "E0" in str(error) or "E1" in str(error)  # a word of the language
        return
    name = made.attention.tensors[3].name
    for tree in kernels(made):
        functions = [f for f in tree.body if isinstance(f, ast.FunctionDef) and takes(f, name)]
        assert functions
        uses = [n for f in functions for n in ast.walk(f) if isinstance(n, ast.Name)]
        assert not [n for n in uses if n.id == name and isinstance(n.ctx, ast.Store)]


def takes(function: ast.FunctionDef, name: str) -> bool:
    return name in {a.arg for a in function.args.args}
