"""Compiled CuTe kernels in the cache, and who compiles them."""

import base64
import contextlib
from types import ModuleType, SimpleNamespace

import pytest

from attngen.backend.emitted import Emitted
from attngen.cutelib.launch import Forward
from attngen.runtime import cute_objects
from attngen.runtime.cache import Cache
from attngen.runtime.cute_objects import Part, prepare, shares
from tests.unit.backend.cute_specs import emitted as emitted_of
from tests.unit.backend.cute_specs import spec

FILE = Emitted("# a file", "", (), (), (), backend="cute")


def module(**kernels) -> ModuleType:
    """Kernels by name, each with so many parts."""
    made = ModuleType("file")
    for name, count in kernels.items():
        parts = tuple(SimpleNamespace(name=f"{name}_{i}") for i in range(count))
        setattr(made, name, Forward(SimpleNamespace(parts=parts)))
    return made


@pytest.fixture
def compiler(monkeypatch):
    """What was compiled here, compiled elsewhere and loaded; functions note their calls."""
    log = SimpleNamespace(here=[], elsewhere=[], loaded=[], called=[], broken=False)

    def run(name):
        return lambda *arguments: log.called.append((name, *arguments))

    def compiled(plan):
        log.here.append(plan.name)
        return run(plan.name)

    def loaded(data, name):
        assert data == f"object of {name}".encode()
        log.loaded.append(name)
        return run(name)

    @contextlib.contextmanager
    def workers(emitted, parts):
        del emitted

        def answer(share):
            names = [f"{x.forward}_{x.number}" for x in share]
            log.elsewhere += names
            return None if log.broken else [f"object of {n}".encode() for n in names]

        yield [lambda share=share: answer(share) for share in parts]

    monkeypatch.setattr(cute_objects, "compiled", compiled)
    monkeypatch.setattr(cute_objects, "object_of", lambda _, name: f"object of {name}".encode())
    monkeypatch.setattr(cute_objects, "loaded", loaded)
    monkeypatch.setattr(cute_objects, "_workers", workers)
    monkeypatch.setattr(cute_objects.os, "cpu_count", lambda: 2)
    return log


def test_kernels_come_before_what_redoes_their_tiles():
    parts = [Part(n, i) for n in "ab" for i in (0, 1)]
    assert shares(parts, 1) == [[Part("a", 0), Part("b", 0), Part("a", 1), Part("b", 1)]]
    two = [[Part("a", 0), Part("a", 1)], [Part("b", 0), Part("b", 1)]]
    assert shares(parts, 2) == two
    assert shares(parts[:1], 8) == [parts[:1]]


def test_two_processes_share_the_work_and_the_cache_keeps_it(compiler, tmp_path):
    file = module(A=2)
    prepare(file, FILE, Cache(tmp_path / "c"))
    assert (compiler.here, compiler.elsewhere, compiler.loaded) == (["A_0"], ["A_1"], ["A_1"])
    file.A(1, 2)
    assert compiler.called == [("A_0", 1, 2), ("A_1", 1, 2)]
    prepare(file, FILE, Cache(tmp_path / "c"))  # nothing: they are there
    assert len(compiler.loaded) == 1
    prepare(module(A=2), FILE, Cache(tmp_path / "c"))
    assert compiler.here == ["A_0"]
    assert compiler.loaded == ["A_1", "A_0", "A_1"]


def test_another_file_is_another_object(compiler, tmp_path):
    cache = Cache(tmp_path / "c")
    prepare(module(A=1), FILE, cache)
    prepare(module(A=1), Emitted("# another", "", (), (), (), backend="cute"), cache)
    assert compiler.here == ["A_0", "A_0"]
    assert not compiler.elsewhere


def test_a_process_that_fails_is_done_without(compiler, tmp_path):
    compiler.broken = True
    file = module(A=2, B=1)
    prepare(file, FILE, Cache(tmp_path / "c"))
    assert sorted(compiler.here) == ["A_0", "A_1", "B_0"]
    file.B()
    assert compiler.called == [("B_0",)]


def test_a_process_that_cannot_start_is_done_without(monkeypatch, tmp_path):
    monkeypatch.setattr(cute_objects.sys, "executable", "")
    assert cute_objects._start(FILE, [Part("A", 0)], tmp_path) is None
    assert cute_objects._answer(None) is None


def test_a_process_that_says_something_else_is_done_without(monkeypatch, tmp_path):
    monkeypatch.setattr(cute_objects.sys, "executable", "/bin/echo")
    process = cute_objects._start(FILE, [Part("A", 0)], tmp_path)
    assert cute_objects._answer(process) is None


def test_objects_of_another_process_are_loaded_from_the_cache(monkeypatch, tmp_path):
    """The compiler itself: both kernels of a file, and what a second process would do."""
    pytest.importorskip("cutlass")
    from attngen.runtime import cute_worker
    from attngen.runtime.load import load_module

    _, file = emitted_of(spec("  mask = causal"), size=64)
    parts = [Part("FORWARD", 0), Part("FORWARD", 1)]
    process = cute_objects._start(file, parts, tmp_path)
    objects = cute_objects._answer(process)
    assert objects is not None
    assert base64.b64encode(objects[0]) != base64.b64encode(objects[1])
    cache = Cache(tmp_path / "c")
    for part, data in zip(parts, objects, strict=True):
        cache.put(cute_objects.object_key(file, part), cute_objects.Entry({}, {"object": data}))
    monkeypatch.setattr(cute_objects, "compiled", lambda _: pytest.fail("compiled again"))
    made = load_module(file)
    prepare(made, file, Cache(tmp_path / "c"))
    assert made.FORWARD.ready
    with pytest.raises(TypeError, match=r"spec_forward\(q: Tensor"):
        made.FORWARD(1)
    assert cute_worker.objects  # what the process ran
