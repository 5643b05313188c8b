"""A call with gradients for Hopper: the files that are made, and what the cache keeps of them."""

import pytest

import attngen
from attngen.core.dtype import Dtype
from attngen.core.resources import resource
from attngen.core.target import find_target
from attngen.runtime.specialise import Request
from attngen.runtime.training import _entry, _stored, generate_training


def made(name: str, backend: str = "cute", **options):
    text = resource("examples", f"{name}.attn").read_text()
    kernel = attngen.compile(text, backend=backend)
    kernel.spec.options = {**kernel.spec.options, **options}
    sizes = tuple((n, 128) for n in ("D", "Dv") if n in text)
    return generate_training(kernel.spec, Request(sizes, Dtype.BF16, find_target("sm_90")))


@pytest.mark.parametrize("name", ["flash", "gemma2", "sinks_gated", "alibi_documents"])
def test_backward_by_cute(name):
    training = made(name)
    assert training.backward.backend == "cute"
    assert training.descriptors[1]
    assert training.reason == "asked for"


def test_backward_by_triton_where_cute_cannot():
    training = made("relative_bias")
    assert training.backward.backend == "triton"
    assert (
        training.reason == "CuTe backward kernels do not do a gradient per pair (bias, table) yet"
    )


def test_backward_by_triton_where_asked_for():
    assert made("flash", "triton").backward.backend == "triton"


def test_cache_keeps_the_pair():
    training = made("flash")
    again = _stored(training.request, _entry(training))
    assert again == training


def test_order_of_sums_is_an_option():
    assert "ordered=True" in made("flash").backward.source
    assert "ordered=False" in made("flash", gradients="unordered").backward.source
