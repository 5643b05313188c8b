"""Which backend makes a kernel file, and why."""

from pathlib import Path

import pytest

import attngen
from attngen.core.diagnostics import SpecError
from attngen.core.target import find_target
from attngen.runtime import backends
from attngen.runtime.load import check_source
from attngen.schedule.cute import CuteSchedule
from attngen.schedule.schedule import Schedule

EXAMPLES = Path(__file__).parents[3] / "examples"
HOPPER = find_target("sm_90")


def program(name, **options):
    kernel = attngen.compile(EXAMPLES / f"{name}.attn", target="sm_90", **options)
    return kernel.specialise().program


@pytest.fixture
def free(monkeypatch):
    """No preference, and the CuTe DSL installed."""
    monkeypatch.delenv("ATTNGEN_BACKEND", raising=False)
    monkeypatch.setattr(backends, "cute_installed", lambda: True)
    return monkeypatch


def test_the_fastest_that_can_do_it(free):
    flash = program("flash")
    assert backends.choose_backend(flash, HOPPER, {}).name == "cute"
    for target in ("sm_80", "sm_100", "gfx942"):
        chosen = backends.choose_backend(flash, find_target(target), {})
        assert (chosen.name, "sm_90" in chosen.reason) == ("triton", True)
    chosen = backends.choose_backend(program("mla"), HOPPER, {})
    assert (chosen.name, "576 columns" in chosen.reason) == ("triton", True)
    assert backends.choose_backend(flash, HOPPER, {}, short=True).name == "triton"
    assert backends.choose_backend(flash, HOPPER, {"backend": "cute"}, short=True).name == "cute"
    for name in ("parallax", "varlen"):  # not timed on a GPU yet
        assert backends.choose_backend(program(name), HOPPER, {}).name == "triton"
        asked = backends.choose_backend(program(name), HOPPER, {"backend": "cute"})
        assert asked.name == "cute"
    chosen = backends.choose_backend(flash, HOPPER, {"block_q": 64})
    assert (chosen.name, "block_q" in chosen.reason) == ("triton", True)


def test_without_the_compiler_it_is_triton(free):
    free.setattr(backends, "cute_installed", lambda: False)
    chosen = backends.choose_backend(program("flash"), HOPPER, {})
    assert (chosen.name, "attngen[cute]" in chosen.reason) == ("triton", True)


def test_the_environment_is_a_preference_and_a_request_stands_above_it(free):
    flash = program("flash")
    free.setenv("ATTNGEN_BACKEND", "triton")
    assert backends.choose_backend(flash, HOPPER, {}).name == "triton"
    assert backends.choose_backend(flash, HOPPER, {"backend": "cute"}).name == "cute"


def test_what_was_asked_for_and_cannot_be_done_is_an_error():
    with pytest.raises(SpecError, match="E408") as caught:
        backends.choose_backend(program("mla"), HOPPER, {"backend": "cute"})
    assert "576 columns" in str(caught.value)
    with pytest.raises(SpecError, match="E408"):
        backends.choose_backend(program("flash"), find_target("sm_80"), {"backend": "cute"})


def test_compile_takes_the_backend_and_explain_says_why():
    def made():
        kernel = attngen.compile(EXAMPLES / "flash.attn", target="sm_90", backend="cute")
        return kernel, kernel.specialise()

    kernel, first = made()
    assert isinstance(first.schedule, CuteSchedule)
    assert "cutelib" in kernel.source
    assert "backend cute: asked for" in kernel.explain()
    _, again = made()  # from the cache
    assert (again.emitted, again.schedule) == (first.emitted, first.schedule)
    assert again.reason == first.reason
    triton = attngen.compile(EXAMPLES / "flash.attn", target="sm_90", backend="triton")
    assert isinstance(triton.specialise().schedule, Schedule)


@pytest.mark.parametrize(
    "name", ["flash", "gemma2", "alibi_documents", "sinks_gated", "differential"]
)
def test_files_pass_the_check_of_generated_sources(name):
    kernel = attngen.compile(EXAMPLES / f"{name}.attn", target="sm_90", backend="cute")
    check_source(kernel.source)
    assert all(len(line) <= 110 for line in kernel.source.splitlines())


@pytest.mark.parametrize(
    ("options", "code"),
    [({"tile_m": 100}, "E303"), ({"warps": 4}, "E302"), ({"reference": "fixed"}, "E303")],
)
def test_options_are_checked(options, code):
    with pytest.raises(SpecError, match=code):
        backends.generate_cute(program("flash"), HOPPER, options)


def test_numerics_asks_for_the_classic_form():
    schedule, _ = backends.generate_cute(program("flash"), HOPPER, {"numerics": "exact"})
    assert schedule.reference == "running"


def test_numerics_of_a_call():
    text = (EXAMPLES / "flash.attn").read_text()
    exact = attngen.compile(text, target="sm_90", backend="cute", numerics="exact")
    assert "reference='running'" in exact.source
    assert "reference='first'" in attngen.compile(text, target="sm_90", backend="cute").source
    with pytest.raises(SpecError, match=r"E303.*numerics must be one of fast, exact"):
        attngen.compile(text, numerics="sloppy")


@pytest.mark.parametrize(
    ("backend", "form", "legal"),
    [
        ("triton", "split", True),
        ("triton", "flat", False),
        ("cute", "flat", True),
        ("cute", "split", False),
    ],
)
def test_forms_of_a_spec_are_those_of_its_backend(backend, form, legal):
    text = (EXAMPLES / "flash.attn").read_text().rstrip().removesuffix("}")
    kernel = attngen.compile(
        f"{text} schedule {{ form = {form} }}\n}}", target="sm_90", backend=backend
    )
    if legal:
        assert f"form={form}" in kernel.source.replace("\n", " ")
        return
    with pytest.raises(SpecError, match=r"E303.*form must be one of"):
        assert kernel.source


@pytest.mark.parametrize(("values", "form"), [(128, "flat"), (64, "tile")])
def test_tiles_run_into_each_other_only_where_widths_are_the_same(values, form):
    text = """attention local {
  query q : half[B, H, S, 64]
  key   k : half[B, H, S, 64]
  value v : half[B, H, S, 128]
  mask  = kv_idx <= q_idx and q_idx - kv_idx < 100
  score = dot(q, k) * rsqrt(64)
}""".replace("64]", f"{values}]").replace("(64)", "(128)")
    source = attngen.compile(text, target="sm_90", backend="cute").source
    assert f"form={form}" in source.replace("\n", " ")


def test_documents_of_other_widths_are_not_done():
    text = """attention documents {
  query q : half[B, H, S, 64]
  key   k : half[B, H, S, 64]
  value v : half[B, H, S, 128]
  input doc : i32[B, S] sorted
  mask  = doc[b, q_idx] == doc[b, kv_idx] and kv_idx <= q_idx
  score = dot(q, k) * rsqrt(64)
}"""
    with pytest.raises(SpecError, match=r"E408.*searched for with 64 and 128 columns"):
        assert attngen.compile(text, target="sm_90", backend="cute").source
    assert "backend=cute" not in attngen.compile(text, target="sm_90").source
