"""Calls like an earlier one are recognised, and only those: each change has to be seen."""

import types

import pytest
import torch
from torch.nn.attention.flex_attention import and_masks

import attngen
from attngen.flex import SHORTCUTS, TRACES, sorted
from attngen.flex.traces import Traces
from tests.differential.flex_corpus import causal, window
from tests.differential.flex_dense import dense

pytestmark = pytest.mark.interpreter
X = torch.randn(1, 2, 24, 16, generator=torch.Generator().manual_seed(0))
WIDTH = 4
TABLE = torch.rand(24, generator=torch.Generator().manual_seed(1))


def absolute(x):
    return x.abs()


@pytest.fixture(autouse=True)
def fresh():
    SHORTCUTS.made.clear()


@pytest.fixture
def long_way(monkeypatch):
    """How often a call was not recognised."""
    counted = []
    find = Traces.find

    def count(self, question, extents):
        counted.append(question)
        return find(self, question, extents)

    monkeypatch.setattr(Traces, "find", count)
    return counted


def right(score_mod=None, mask_mod=None, **options):
    found = attngen.flex_attention(X, X, X, score_mod, mask_mod=mask_mod, **options)
    expected, _ = dense(X, X, X, score_mod, mask_mod, options.get("scale"))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    return found


def test_the_same_and_equal_callables_are_recognised(long_way):
    bias = torch.rand(24)

    def mod(score, b, h, q_idx, kv_idx):
        return score + bias[q_idx] * TABLE[kv_idx]

    for _ in range(3):
        right(mod, window(5))
        right(mask_mod=causal)
        right()
    assert len(long_way) == 3


def test_contents_of_tensors_are_passed(long_way):
    bias = torch.rand(24)

    def mod(score, b, h, q_idx, kv_idx):
        return score + bias[kv_idx]

    one = right(mod)
    bias.mul_(-1)
    assert not torch.equal(one, right(mod))
    bias = torch.rand(24)
    right(mod)
    assert len(long_way) == 1


def test_numbers_of_closures_and_modules(monkeypatch):
    def made(width):
        return lambda b, h, q_idx, kv_idx: (q_idx - kv_idx < width) & (kv_idx - q_idx < WIDTH)

    mod = made(3)
    for value in (3, 9, 3, True):
        mod.__closure__[0].cell_contents = value
        right(mask_mod=mod)
    for value in (2, 7, 7.5, 2):
        monkeypatch.setitem(globals(), "WIDTH", value)
        right(mask_mod=mod)


@pytest.mark.parametrize("values", [(0.0, -0.0), (1, True), (1, 1.0)])
def test_values_that_compare_equal_and_are_not_the_same(values, long_way):
    def made(factor):
        return lambda score, b, h, q_idx, kv_idx: score + kv_idx * 0.1 * factor

    for value in values:
        right(made(value))
    assert len(long_way) == 2


def test_names_that_appear_and_functions_that_change(monkeypatch):
    def mod(b, h, q_idx, kv_idx):
        return abs(q_idx - kv_idx) < 5  # a built-in, until the module has its own

    def other(b, h, q_idx, kv_idx):
        return absolute(q_idx - kv_idx) < 5

    one, two = right(mask_mod=mod), right(mask_mod=other)
    monkeypatch.setitem(globals(), "abs", lambda x: x * x)
    monkeypatch.setitem(globals(), "absolute", lambda x: x * x)
    assert not torch.equal(one, right(mask_mod=mod))
    assert not torch.equal(two, right(mask_mod=other))


def test_code_that_is_put_in_its_place():
    def mod(b, h, q_idx, kv_idx):
        return kv_idx <= q_idx

    def strict(b, h, q_idx, kv_idx):
        return kv_idx < q_idx + 0 * 1

    one = right(mask_mod=mod)
    mod.__code__ = strict.__code__
    assert not torch.equal(one, right(mask_mod=mod))


def test_kinds_of_tensors():
    def made(tensor):
        return lambda score, b, h, q_idx, kv_idx: score + tensor[kv_idx] * 0.1

    for kind in (torch.int64, torch.int32, torch.float32, torch.uint8):
        right(made(torch.arange(24).to(kind)))
    for tensor in (torch.rand(48)[::2], torch.rand(60), torch.rand(24)):
        right(made(tensor))


def test_a_tensor_in_two_places_and_then_two_tensors():
    one, two = TABLE, TABLE

    def mod(score, b, h, q_idx, kv_idx):
        return score + one[q_idx] * two[kv_idx]

    right(mod)
    two = torch.rand(24)
    right(mod)
    two = TABLE
    right(mod)


def test_gradients_are_asked_for_or_not():
    table = torch.rand(5)

    def mod(score, b, h, q_idx, kv_idx):
        return score + table[(q_idx - kv_idx).clamp(0, 4)]

    for wanted in (False, True, False, True):
        table.requires_grad_(wanted)
        out = attngen.flex_attention(X, X, X, mod)
        assert out.requires_grad == wanted
        with torch.no_grad():
            assert not attngen.flex_attention(X, X, X, mod).requires_grad


def test_a_mark_and_options():
    doc = torch.arange(24) // 7

    def mod(b, h, q_idx, kv_idx):
        return doc[q_idx] == doc[kv_idx]

    right(mask_mod=mod)
    count = TRACES.count
    sorted(doc)
    right(mask_mod=mod)
    assert TRACES.count == count + 1
    for scale in (None, 0.3, 1):
        right(mask_mod=mod, scale=scale)
    out, _ = attngen.flex_attention(X, X, X, mask_mod=mod, return_lse=True)
    assert torch.equal(out, right(mask_mod=mod))
    last = X[:, :, -3:]
    start = attngen.flex_attention(last, X, X, mask_mod=causal)
    end = attngen.flex_attention(last, X, X, mask_mod=causal, align="end")
    assert not torch.equal(start, end)
    with pytest.raises(attngen.CallError, match="E513"):
        attngen.flex_attention(X, X, X, scale=float("nan"))


def test_what_is_unusual_takes_the_long_way(long_way):
    class Mod:
        width = 4

        def __call__(self, b, h, q_idx, kv_idx):
            return q_idx - kv_idx < self.width

    mod = Mod()
    for mod.width in (2, 5, 2):
        right(mask_mod=mod)
    settings = {"width": 3}

    def looked_up(b, h, q_idx, kv_idx):
        return q_idx - kv_idx < settings["width"]

    for settings["width"] in (2, 6):
        right(mask_mod=looked_up)
    assert len(long_way) == 5
    right(mask_mod=and_masks(causal, window(4)))


SETTINGS = types.ModuleType("settings")


class Base:
    width = 3


class Config(Base):
    deep = SETTINGS


class Slotted:
    __slots__ = ("width",)


class Called(Base):
    def __call__(self, b, h, q_idx, kv_idx):
        return self.inside(q_idx - kv_idx) & (kv_idx - q_idx < WIDTH)

    def inside(self, distance):
        return distance < self.reach

    @property
    def reach(self):
        return self.width + Config.deep.extra


def in_module(b, h, q_idx, kv_idx):
    return q_idx - kv_idx < SETTINGS.width


def in_class(b, h, q_idx, kv_idx):
    return q_idx - kv_idx < Config.width


def in_module_of_class(b, h, q_idx, kv_idx):
    return q_idx - kv_idx < Config.deep.width


SLOTTED = Slotted()


def in_slot(b, h, q_idx, kv_idx):
    return q_idx - kv_idx < SLOTTED.width


ATTRIBUTES = {
    "module": (in_module, SETTINGS, "width"),
    "class": (in_class, Base, "width"),
    "module of a class": (in_module_of_class, SETTINGS, "width"),
    "slot": (in_slot, SLOTTED, "width"),
    "class of what is called": (Called(), Base, "width"),
    "module behind a property": (Called(), SETTINGS, "extra"),
    "method": (Called().__call__, Base, "width"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_modules_classes_and_slots(name, monkeypatch):
    mod, owner, attribute = ATTRIBUTES[name]
    monkeypatch.setattr(SETTINGS, "extra", 1, raising=False)
    monkeypatch.setattr(Base, "width", 3)
    found = []
    for value in (2, 6, 2, 4):
        setattr(owner, attribute, value)
        found.append(right(mask_mod=mod))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_what_is_called_reads_its_module(monkeypatch):
    monkeypatch.setattr(SETTINGS, "extra", 1, raising=False)
    for value in (2, 5):
        monkeypatch.setitem(globals(), "WIDTH", value)
        right(mask_mod=Called())


def test_a_variable_that_is_unbound_again():
    def made(width):
        return lambda b, h, q_idx, kv_idx: q_idx - kv_idx < width

    mod = made(3)
    right(mask_mod=mod)
    del mod.__closure__[0].cell_contents
    with pytest.raises(NameError):
        attngen.flex_attention(X, X, X, mask_mod=mod)
