"""Calls with gradients: operators, grad mode, caches, torch.compile, checkpoints."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from attngen.core.diagnostics import CallError, SpecError
from attngen.core.source import Source
from attngen.frontend import load
from attngen.runtime.autograd import floats, has_gradient
from attngen.runtime.cache import Cache
from attngen.runtime.kernel import Kernel
from attngen.runtime.settings import prepare_interpreter
from attngen.runtime.specialise import Spec

pytestmark = pytest.mark.interpreter

TEXT = """attention %s {
  query q : half[B, H, Sq, D]
  key   k : half[B, H, Skv, D]
  value v : half[B, H, Skv, D]
  input slope : f32[H]
  input bias : f32[H] const
  input window : i32
  score = dot(q, k) * rsqrt(D) + (slope[h] + bias[h]) * (kv_idx - q_pos)
  mask  = causal and q_pos - kv_idx < window
  out   = sum(softmax(score) * v)
  lse   = logsumexp(score)
  return out, lse
}
"""
INDICES = """attention nearest {
  query q : half[B, H, Sq, D]
  key   k : half[B, H, Skv, D]
  score = dot(q, k)
  least, at = argmin(score)
  return %s
}
"""
LONG_TABLE = """attention long_table {
  query q : half[B, H, Sq, D]
  key   k : half[B, H, Skv, D]
  value v : half[B, H, Skv, D]
  input table : f32[H, 5000]
  score = dot(q, k) + table[h, min(max(kv_idx - q_idx, 0), 4999)]
}
"""


@pytest.fixture(autouse=True)
def interpreter():
    prepare_interpreter()


def made(text: str, cache: Cache | None = None) -> Kernel:
    attention = load(Source("<test>", text), {})
    return Kernel(Spec(Source("<test>", text), {}, attention, {}), cache=cache)


def arguments(sq: int = 9, skv: int = 12, gradient: bool = True, b: int = 1) -> list:
    torch.manual_seed(0)
    shapes = [(b, 2, sq, 16), (b, 2, skv, 16), (b, 2, skv, 16), (2,), (2,)]
    return [*(torch.randn(s).requires_grad_(gradient) for s in shapes), 7]


def loss(results: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return results[0].square().sum() + results[1].sum()


def gradients(kernel: Kernel, given: list) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss(kernel(*given)), given[:4])


def test_what_has_a_gradient():
    attention = load(Source("<test>", TEXT % "named"), {})
    assert floats(Kernel(Spec.of(attention)).declared) == (0, 1, 2, 3)
    assert has_gradient(attention)
    assert not has_gradient(load(Source("<test>", INDICES % "at"), {}))


def test_constants_and_numbers_get_none():
    kernel, given = made(TEXT % "constants"), arguments()
    loss(kernel(*given)).backward()
    assert all(x.grad is not None for x in given[:4])
    assert given[4].grad is None


def test_the_grad_mode_decides():
    kernel, given = made(TEXT % "modes"), arguments()
    with torch.no_grad():
        plain = kernel(*given)
    wanted = kernel(*given)
    with torch.inference_mode():
        again = kernel(*given)
    assert [x.requires_grad for x in (*plain, *wanted, *again)] == [False] * 2 + [True] * 2 + [
        False
    ] * 2
    assert torch.equal(plain[0], wanted[0].detach())
    assert torch.equal(plain[0], again[0])


def test_only_constants_want_a_gradient():
    kernel, given = made(TEXT % "only_constants"), arguments(gradient=False)
    given[4].requires_grad_()
    assert not any(x.requires_grad for x in kernel(*given))


def test_lengths_batches_and_scalars_compile_once():
    kernel = made(TEXT % "lengths")
    for sq, skv, b, window in [(1, 1, 1, 1), (5, 70, 2, 9), (70, 66, 1, 3), (0, 3, 1, 4)]:
        given = arguments(sq, skv, b=b)
        given[5] = window
        found = gradients(kernel, given)
        assert [g.shape for g in found] == [x.shape for x in given[:4]]
    assert kernel.compilations == 1


def test_the_pair_comes_from_the_disk_cache(tmp_path, monkeypatch):
    import attngen.runtime.training as module

    text = TEXT % "stored"
    first = gradients(made(text, Cache(tmp_path / "cache")), arguments())
    request = made(text).training_request(made(text).checker.check(arguments()))
    monkeypatch.setattr(module, "generate_training", lambda *_: pytest.fail("made again"))
    again = module.train(made(text).spec, request, Cache(tmp_path / "cache"))
    assert again.wiring.gradients == (0, 1, 2, 3)
    assert again.wiring.seeds == (0, 1)
    assert first


def test_indices_have_no_gradient():
    kernel = made(INDICES % "at")
    given = [x.detach().requires_grad_() for x in arguments()[:2]]
    assert not kernel(*given).requires_grad


def test_what_has_no_backward_yet_is_said_at_the_call():
    kernel = made(LONG_TABLE)
    given = [*arguments()[:3], torch.zeros(2, 5000)]
    with pytest.raises(SpecError, match=r"E430[\s\S]*torch\.no_grad"):
        kernel(*given)
    with torch.no_grad():
        kernel(*given)


def test_a_second_derivative_is_refused():
    kernel, given = made(TEXT % "twice"), arguments()
    (first,) = torch.autograd.grad(loss(kernel(*given)), given[:1], create_graph=True)
    with pytest.raises(CallError, match="E522"):
        first.sum().backward()


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpoints(reentrant):
    kernel, given = made(TEXT % "checkpoints"), arguments()
    want = gradients(kernel, given)
    checkpoint(lambda *x: loss(kernel(*x)), *given, use_reentrant=reentrant).backward()
    assert all(torch.equal(x.grad, w) for x, w in zip(given, want, strict=False))


def test_the_operators_pass_opcheck():
    kernel, given = made(TEXT % "opcheck"), arguments()
    given[5] = torch.tensor(7)
    torch.library.opcheck(kernel.operators.operator("_training"), tuple(given))
    plain = tuple(x.detach() for x in given)
    torch.library.opcheck(kernel.operators.operator(""), plain)


def test_compile_without_graph_breaks_or_recompilations():
    kernel = made(TEXT % "compiled")
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    def step(q, k, v, slope, bias, window):
        return loss(kernel(q=q * 1.0, k=k, v=v, slope=slope, bias=bias, window=window))

    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=True)
    for sq, skv in [(9, 12), (20, 33), (40, 50)]:
        given = arguments(sq, skv)
        found = torch.autograd.grad(compiled(*given), given[:4])
        want = torch.autograd.grad(step(*given), given[:4])
        assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
    assert len(graphs) == 1
    assert kernel.compilations == 1


def test_compile_through_aot_autograd_and_without_gradients():
    kernel, given = made(TEXT % "aot"), arguments()
    compiled = torch.compile(lambda *x: loss(kernel(*x)), fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*given), given[:4])
    want = gradients(kernel, given)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, want, strict=True))
    with torch.no_grad():
        assert torch.allclose(compiled(*given), loss(kernel(*given)))


def test_fake_tensors_are_not_run():
    from torch._subclasses.fake_tensor import FakeTensorMode

    kernel, given = made(TEXT % "fakes"), arguments()
    kernel(*given)
    mode = FakeTensorMode()
    with mode:
        results = kernel(*(mode.from_tensor(x) for x in given[:5]), 7)
    assert [tuple(r.shape) for r in results] == [(1, 2, 9, 16), (1, 2, 9)]
