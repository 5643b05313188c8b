"""Names a generated file needs for itself."""

import ast
import builtins
from pathlib import Path

import pytest

from attngen.backend.triton.emit import emit
from attngen.core.dtype import Dtype
from attngen.core.source import Source
from attngen.core.target import find_target
from attngen.frontend import load
from attngen.passes.pipeline import build_program
from attngen.passes.rename import rename_reserved, reserved
from attngen.schedule.choose import choose

GENERATED = Path(__file__).parents[3] / "generated"
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


def own_words() -> set[str]:
    """Identifiers of the checked-in flash kernel that no user's name gave it."""
    tree = ast.parse((GENERATED / "flash" / "sm_90" / "flash.py").read_text())
    found = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    found |= {a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)}
    return found - {"q", "k", "v", "out", "lse"}


@pytest.mark.parametrize("word", sorted(own_words()))
def test_a_scalar_may_have_any_name_the_kernel_uses(word):
    """The scalar's parameter is neither shadowed nor a duplicate: its name is assigned nowhere."""
    text = SPEC.replace("QUERY", "q").replace("TENSOR", "t").replace("SCALAR", word)
    try:
        made = program(text)
    except Exception as error:
        assert "E0" in str(error) or "E1" in str(error)  # a word of the language
        return
    target = find_target("sm_90")
    tree = ast.parse(emit(made, choose(made, target), target).source)
    name = made.attention.tensors[3].name
    assigned = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == name]
    assert not [n for n in assigned if isinstance(n.ctx, ast.Store)]
