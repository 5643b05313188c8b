"""A package on a GPU: stored answers, torch.compile, export, graphs, threads, errors.

Built here for the GPU of this machine, or given by ATTNGEN_PACKAGE (a folder with acme_kernels in
it, built by `attngen package examples/flash.attn examples/gemma2.attn --name acme-kernels`).
"""

import importlib
import os
import sys
import threading
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def acme(tmp_path_factory):
    folder = os.environ.get("ATTNGEN_PACKAGE")
    if folder is None:
        from attngen.runtime.device import target_of
        from tests.packages.building import built, unpacked

        target = target_of("cuda:0").name
        specs = [ROOT / "examples" / f"{name}.attn" for name in ("flash", "gemma2")]
        folder = unpacked(built(specs, [target]), tmp_path_factory.mktemp("site"))
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("acme_kernels")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture
def streams():
    torch.manual_seed(0)
    shapes = ((2, 300, 8, 128), (2, 333, 2, 128), (2, 333, 2, 128))
    return [torch.randn(s, device="cuda", dtype=torch.bfloat16) for s in shapes]


def test_every_kernel_gives_its_stored_answer(acme):
    from acme_kernels._launcher.selfcheck import selfcheck

    said = []
    assert selfcheck(list(acme._kernels.values()), torch.device("cuda", 0), said.append), said


def test_it_gives_what_the_kernel_compiled_here_gives(acme, streams):
    import attngen

    kernel = attngen.compile(ROOT / "examples" / "gemma2.attn")
    torch.testing.assert_close(acme.gemma2(*streams), kernel(*streams), rtol=2e-2, atol=2e-3)


def test_runs_give_the_same_bits(acme, streams):
    first = acme.gemma2(*streams)
    assert all(torch.equal(acme.gemma2(*streams), first) for _ in range(20))


def test_gradients_are_those_of_the_definition(acme, streams):
    import attngen

    leaves = [x.clone().requires_grad_() for x in streams]
    acme.gemma2(*leaves).float().square().sum().backward()
    kernel = attngen.compile(ROOT / "examples" / "gemma2.attn")
    others = [x.double().requires_grad_() for x in streams]
    from attngen.reference.execute import reference

    (out,) = reference(kernel.spec.attention, dict(zip("qkv", others, strict=True)))
    out.square().sum().backward()
    for mine, other in zip(leaves, others, strict=True):
        error = (mine.grad.double() - other.grad).square().mean().sqrt()
        assert error <= 0.02 * other.grad.square().mean().sqrt()


def test_other_layouts_and_addresses(acme, streams):
    right = acme.gemma2(*streams)
    moved = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in streams]
    torch.testing.assert_close(acme.gemma2(*moved), right, rtol=0, atol=0)
    stores = [torch.zeros(x.numel() + 1, dtype=x.dtype, device="cuda") for x in streams]
    odd = [s[1:].view(x.shape).copy_(x) for s, x in zip(stores, streams, strict=True)]
    assert odd[0].data_ptr() % 16
    torch.testing.assert_close(acme.gemma2(*odd), right, rtol=0, atol=0)


def test_compiled_in_one_graph(acme, streams):
    def model(q, k, v):
        return acme.gemma2(q * 1.0, k, v) + 1

    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(*streams), model(*streams))
    leaves, others = ([x.clone().requires_grad_() for x in streams] for _ in range(2))
    compiled(*leaves).float().sum().backward()
    model(*others).float().sum().backward()
    for a, b in zip(leaves, others, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_exported_with_a_dynamic_length(acme, streams):
    class Model(torch.nn.Module):
        def forward(self, q, k, v):
            return acme.gemma2(q, k, v)

    q, k, v = streams
    length = torch.export.Dim("length", min=32, max=4096)
    dynamic = ({1: length}, None, None)
    with torch.no_grad():
        program = torch.export.export(Model(), (q, k, v), dynamic_shapes=dynamic)
        short = q[:, :100].contiguous()
        assert "acme_kernels.gemma2" in str(program.graph)
        torch.testing.assert_close(program.module()(short, k, v), acme.gemma2(short, k, v))


def test_captured_in_a_graph(acme, streams):
    acme.preload()
    right = acme.gemma2(*streams)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = acme.gemma2(*streams)
    out.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, right)


def test_operators_follow_the_rules_of_torch(acme, streams):
    few = [x[:1, :64].contiguous().requires_grad_() for x in streams]
    torch.library.opcheck(torch.ops.acme_kernels.gemma2.default, tuple(few))


def test_threads_on_streams_of_their_own(acme, streams):
    right = acme.gemma2(*streams)
    torch.cuda.synchronize()
    wrong = []

    def work():
        with torch.cuda.stream(torch.cuda.Stream()):
            for i in range(50):
                q = streams[0][:, : 300 - i % 3].contiguous()
                found = acme.gemma2(q, *streams[1:])
                if i % 3 == 0 and not torch.equal(found, right):
                    wrong.append(i)
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_another_device(acme, streams):
    right = acme.gemma2(*streams).cpu()
    there = [x.to("cuda:1") for x in streams]
    assert torch.cuda.current_device() == 0
    assert torch.equal(acme.gemma2(*there).cpu(), right)


def test_mistakes_are_named_before_any_launch(acme, streams):
    q, k, v = streams
    for wrong, word in (
        ((q.cpu(), k, v), "cpu"),
        ((q, k.half(), v), "float16"),
        ((q.float(), k.float(), v.float()), "no kernel for f32"),
        ((q, k[..., :64], v), "D is 64"),
        ((q[:, :, :3], k, v), "do not divide"),
        ((q[0], k, v), "3 axes"),
        ((q, k[:, :0], v[:, :0]), "no keys"),
    ):
        with pytest.raises(acme.ArgumentError, match=word):
            acme.gemma2(*wrong)


def test_an_empty_batch_gives_an_empty_result(acme, streams):
    q, k, v = (x[:0] for x in streams)
    assert acme.gemma2(q, k, v).shape == (0, 300, 8, 128)


@pytest.mark.slow
def test_a_program_of_aotinductor_calls_the_operator(acme, streams, tmp_path):
    class Model(torch.nn.Module):
        def forward(self, q, k, v):
            return acme.gemma2(q * 1.0, k, v) + 1

    with torch.no_grad():
        program = torch.export.export(Model(), tuple(streams))
        path = torch._inductor.aoti_compile_and_package(program, package_path=tmp_path / "m.pt2")
        found = torch._inductor.aoti_load_package(path)(*streams)
        torch.testing.assert_close(found, Model()(*streams))
