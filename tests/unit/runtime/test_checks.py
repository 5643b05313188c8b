"""Every bad call: a typed error that names the argument, what was found and what was expected."""

import pytest
import torch

from attngen.core.diagnostics import CallError
from attngen.core.dtype import Dtype
from attngen.ir import build
from attngen.ir.expr import Index, Load
from attngen.runtime.checks import FARTHEST, Checker, _farthest
from attngen.runtime.interface import feature_names
from attngen.runtime.kernel import Kernel
from attngen.runtime.launch import signature
from attngen.runtime.lone import lone_scalars
from attngen.runtime.scalars import FAR
from tests.unit.runtime.runtime_specs import flash, spec, tensor, varlen, windowed


def tensors(b=2, hq=4, hkv=2, sq=8, skv=9, d=16, dv=16, dtype=torch.bfloat16):
    return {
        "q": torch.zeros(b, hq, sq, d, dtype=dtype),
        "k": torch.zeros(b, hkv, skv, d, dtype=dtype),
        "v": torch.zeros(b, hkv, skv, dv, dtype=dtype),
    }


def refuse(code, *words, attention=None, **changed):
    """The call with these arguments changed raises that code, and its message holds the words."""
    attention = attention or flash()
    with pytest.raises(CallError) as caught:
        Checker(attention).check([(tensors() | changed)[t.name] for t in attention.tensors])
    codes = [d.code for d in caught.value.diagnostics]
    assert codes[0] == code, caught.value
    for word in words:
        assert word in str(caught.value)
    assert all(d.help for d in caught.value.diagnostics)


def test_the_facts_of_a_good_call():
    call = Checker(flash()).check([*tensors(d=80, dv=64).values()])
    assert call.sizes == {"D": 80, "Dv": 64}
    assert call.lengths == {"B": 2, "Hq": 4, "Sq": 8, "Hkv": 2, "Skv": 9}
    assert (call.half, call.q_len, call.kv_len, call.heads, call.batch) == (Dtype.BF16, 8, 9, 4, 2)
    assert not (call.copies or call.wide or call.empty)


@pytest.mark.parametrize("value", [None, 3, [1.0], "q"])
def test_what_is_not_a_tensor(value):
    refuse("E503", "k is not a tensor", type(value).__name__, "half[B, Hkv, Skv, D]", k=value)


def test_numpy_is_not_a_tensor():
    refuse("E503", "as_tensor", v=tensors(dtype=torch.float32)["v"].numpy())


@pytest.mark.parametrize("shape", [(), (16,), (2, 9, 16), (1, 2, 2, 9, 16)])
def test_rank(shape):
    refuse("E504", "k has", "bfloat16", k=torch.zeros(shape, dtype=torch.bfloat16))


def test_named_axes_must_agree():
    refuse("E505", "k has D = 32", "q has D = 16", "[2, 2, 9, 32]", k=tensors(d=32)["k"])
    refuse("E505", "v has Skv = 10", "k has Skv = 9", v=tensors(skv=10)["v"])
    refuse("E505", "v has B = 1", "q has B = 2", v=tensors(b=1)["v"])


def test_every_disagreement_is_reported():
    with pytest.raises(CallError) as caught:
        Checker(flash()).check([*(tensors() | {"v": tensors(b=3, hkv=1, skv=7)["v"]}).values()])
    assert len(caught.value.diagnostics) == 3


def test_fixed_sizes():
    fixed = flash(q=tensor("q", "query", "B, Hq, Sq, 576"), k=tensor("k", "key", "B, 1, Skv, 576"))
    good = tensors(hkv=1, d=576)
    Checker(fixed).check([*good.values()])
    refuse("E506", "576", "16", attention=fixed, **(good | {"k": tensors(hkv=1)["k"]}))
    refuse("E506", "k", attention=fixed, **(good | {"k": tensors(hkv=2, d=576)["k"]}))


def test_heads_divide():
    refuse("E507", "k has 3 heads", "4 heads of q", **tensors(hkv=3))
    refuse("E507", "k has 8 heads", **tensors(hkv=8))
    refuse("E507", "k has 0 heads", **tensors(hkv=0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool, torch.uint8])
def test_dtype_of_half(dtype):
    refuse("E508", "q has the wrong dtype", str(dtype)[6:], "half[", q=tensors(dtype=dtype)["q"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_is_what_arrives(dtype):
    call = Checker(flash()).check([*tensors(dtype=dtype).values()])
    assert call.half is {2: call.half, 4: Dtype.F32}[dtype.itemsize]
    assert call.half.name.lower() in str(dtype).replace("float", "f")


def test_half_is_one_dtype():
    refuse("E509", "v", "float16", "bfloat16", "one dtype", v=tensors(dtype=torch.float16)["v"])


def test_devices():
    refuse("E510", "k is on meta", k=tensors()["k"].to("meta"))


def test_layouts():
    refuse("E511", "complex", q=torch.zeros(2, 4, 8, 16, dtype=torch.complex64))
    refuse("E511", "dense", "sparse", k=torch.zeros(2, 2, 9, 16).to_sparse())


def test_odd_layouts_have_no_signature():
    sparse = torch.zeros(2, 2, 9, 16).to_sparse()
    assert signature([sparse]) is None
    assert signature([sparse.to_dense(), 3]) is not None


def test_empty_features_are_refused():
    refuse("E506", "D is empty", **tensors(d=0))


@pytest.mark.parametrize("changed", [{"b": 0}, {"sq": 0}, {"skv": 0}, {"hq": 0, "hkv": 0}])
def test_zero_sizes_are_empty_calls(changed):
    assert Checker(flash()).check([*tensors(**changed).values()]).empty


def test_strides():
    odd = tensors()["k"].mT.contiguous().mT
    assert Checker(flash()).check([*(tensors() | {"k": odd}).values()]).copies == (1,)
    expanded = torch.zeros(1, 1, 1, 16, dtype=torch.bfloat16).expand(2, 2, 9, 16)
    assert Checker(flash()).check([*(tensors() | {"k": expanded}).values()]).copies == ()


def test_strides_that_no_descriptor_holds():
    storage = torch.zeros(1 << 12, dtype=torch.bfloat16)
    k = torch.as_strided(storage, (2, 2, 9, 16), (0, 0, 1 << 8, 1))
    assert Checker(flash()).check([*(tensors() | {"k": k}).values()]).wide == ()
    far = torch.empty(0, dtype=torch.bfloat16, device="meta")
    declared = Checker(flash()).declared[1]
    rows = far.new_empty_strided((2, 2, 2, 16), (16, 16, 1 << 39, 1))
    single = far.new_empty_strided((2, 2, 1, 16), (16, 16, 1 << 39, 1))
    assert _farthest(declared, rows) == FARTHEST
    assert _farthest(declared, single) == 32


def scalar_call(window=4, scale=1.0):
    attention = windowed()
    values = tensors() | {"window": window, "scale": scale}
    return Checker(attention), [values[t.name] for t in attention.tensors]


@pytest.mark.parametrize("window", [0, -1, 4, torch.tensor(4), 2**31 - 1, 2**40, -(2**70)])
def test_lone_scalars_are_clamped(window):
    checker, values = scalar_call(window)
    checker.check(values)
    assert -FAR <= checker.scalars["window"].convert(window) <= FAR
    assert checker.scalars["window"].convert(4) == 4


@pytest.mark.parametrize("window", [1.5, "4", None, True, [4], torch.tensor(4.0), torch.zeros(2)])
def test_scalars_that_are_no_whole_number(window):
    checker, values = scalar_call(window)
    with pytest.raises(CallError, match=r"E503.*window: expected a number \(i32\)"):
        checker.check(values)


def test_scalars_that_are_no_number():
    checker, values = scalar_call(scale=float("nan"))
    with pytest.raises(CallError, match=r"E513.*scale: NaN"):
        checker.check(values)
    for fine in (1, 0.0, float("inf"), 10**400, torch.tensor(2.0)):
        checker.scalars["scale"].convert(fine)


def test_scalars_that_are_not_lone_keep_their_range():
    block = Load("window", (), "int")
    mask = build.binary("lt", build.binary("floordiv", Index("q_pos"), block), Index("kv_idx"))
    attention = flash(mask, window=tensor("window", "input", dtype=Dtype.I32))
    assert lone_scalars(attention) == frozenset()
    assert lone_scalars(windowed()) == {"window"}
    scalar = Checker(attention).scalars["window"]
    assert scalar.convert(2**31 - 1) == 2**31 - 1
    with pytest.raises(CallError, match="E513"):
        scalar.convert(2**31)


def packed(cu_q=(0, 3, 8), cu_kv=(0, 4, 9), dtype=torch.int32):
    half = {"dtype": torch.bfloat16}
    q, k = torch.zeros(8, 4, 16, **half), torch.zeros(9, 2, 16, **half)
    return [q, k, k, torch.tensor(cu_q, dtype=dtype), torch.tensor(cu_kv, dtype=dtype)]


def test_packed_sequences():
    call = Checker(varlen()).check(packed())
    assert (call.batch, call.q_len, call.kv_len) == (2, 8, 9)
    assert (call.lengths["B"], call.lengths["T of cu_q"], call.lengths["T of cu_kv"]) == (2, 8, 9)
    assert feature_names(varlen()) == ("D",)


def test_boundaries_of_another_dtype_or_count():
    with pytest.raises(CallError, match=r"E508.*cu_q"):
        Checker(varlen()).check(packed(dtype=torch.int64))
    with pytest.raises(CallError, match="E505"):
        Checker(varlen()).check(packed(cu_q=(0, 8)))
    with pytest.raises(CallError, match=r"E505.*B . 1 is too short"):
        Checker(varlen()).check(packed(cu_q=(), cu_kv=()))


@pytest.mark.parametrize(
    ("cu_q", "words"),
    [((0, 5, 3), "decreases"), ((0, 3, 7), "ends at 7"), ((1, 3, 8), "starts at 1")],
)
def test_boundaries_with_wrong_contents(cu_q, words):
    with pytest.raises(CallError, match=f"E514.*cu_q {words}"):
        Kernel(spec(varlen()))(*packed(cu_q=cu_q))
