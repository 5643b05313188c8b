"""Launches are read out of the host function's code; what has no form as data is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngen.aot.cute import layout, with_launches
from attngen.aot.launcher.values import number
from attngen.cutelib.host import numbers
from attngen.cutelib.host.code import Opaque, Run
from attngen.cutelib.host.describe import describe
from attngen.cutelib.host.memory import read_type
from attngen.cutelib.host.numbers import HostCodeError, constant
from attngen.cutelib.host.text import blocks, split

HERE = Path(__file__).parent
MODULE = (HERE / "host.mlir").read_text()  # one launch, as the compiler writes it
CEIL = (HERE / "grid.mlir").read_text()  # rows / 128, rounded up
MARK = "    // the grid goes here\n"
PLAN = SimpleNamespace(
    name="k", arguments=(("x", "bf16 2 0"), ("scale", "f32")), aligned=frozenset({"x"})
)


def described(middle=CEIL, module=MODULE):
    return describe(module.replace(MARK, middle), PLAN)


def test_a_launch_is_read():
    (launch,) = described()
    assert launch == {
        "symbol": "sym",
        "grid": [["cdiv", ["shape", "x", 0], 128], 1, 1],
        "threads": 128,
        "shared": 4096,
        "dependent": True,
        "cooperative": False,
        "types": ["ptr i32 i64", "fp32"],
        "parameters": [
            [["address", "x", 48], ["shape", "x", 0], ["stride", "x", 0]],
            [["argument", "scale"]],
        ],
    }


def test_a_loop_that_is_decided_now_is_run():
    loop = """
    "llvm.br"(%zero)[^bb1] : (i32) -> ()
  ^bb1(%n: i32):  // 2 preds
    %more = "llvm.add"(%n, %one) <{overflowFlags = 0 : i32}> : (i32, i32) -> i32
    %end = "llvm.icmp"(%more, %tile) <{predicate = 2 : i64}> : (i32, i32) -> i1
    "llvm.cond_br"(%end, %more)[^bb1, ^bb2] <{operandSegmentSizes = array<i32: 1, 1, 0>}> : () -> ()
  ^bb2:  // pred: ^bb1
    %grid = "llvm.add"(%more, %zero) <{overflowFlags = 0 : i32}> : (i32, i32) -> i32
"""
    (launch,) = described(loop)
    assert launch["grid"][0] == 128


@pytest.mark.parametrize(
    ("middle", "words"),
    [
        ('%grid = "llvm.fadd"(%one, %one) : (i32, i32) -> i32', "no form as data: llvm.fadd"),
        ('%grid = "llvm.sub"(%zero, %rows) : (i32, i32) -> i32\n'
         '    %x = "llvm.sdiv"(%grid, %tile) : (i32, i32) -> i32', "may be negative"),
        ('%grid = "llvm.call"(%one) <{callee = @printf}> : (i32) -> i32', "a call of printf"),
        ('%grid = "llvm.shl"(%one, %rows) : (i32, i32) -> i32', "a shift by a number"),
        ('%b = "llvm.icmp"(%rows, %tile) <{predicate = 2 : i64}> : (i32, i32) -> i1\n'
         '"llvm.cond_br"(%b)[^bb1, ^bb1] <{operandSegmentSizes = array<i32: 1, 0, 0>}> : () -> ()\n'
         '  ^bb1:', "a branch that depends on the call"),
        ('"llvm.br"()[^bb1] : () -> ()\n  ^bb1:\n    "llvm.br"()[^bb1] : () -> ()\n  ^bb2:',
         "a loop that does not end"),
        ('%grid = "llvm.trunc"(%step) : (i64) -> i32', "cut to 32 bits"),
        ('"llvm.unreachable"() : () -> ()', "gives up"),
        ("what is this", "a line that is not read"),
        ('%grid = "llvm.add"(%nobody, %one) : (i32, i32) -> i32', "another form"),
        ('%grid = "llvm.extractvalue"(%one) <{position = array<i64: 0>}> : (i32) -> i32',
         "another form"),
    ],
)  # fmt: skip
def test_what_has_no_form_is_refused(middle, words):
    with pytest.raises(HostCodeError, match=words):
        described(f"    {middle}\n")


def test_a_number_made_of_an_address_is_refused():
    module = MODULE.replace(
        '%d = "llvm.insertvalue"(%c, %step)',
        '%odd = "llvm.ptrtoint"(%at) : (!llvm.ptr<1>) -> i64\n'
        '    %sum = "llvm.add"(%odd, %step) : (i64, i64) -> i64\n'
        '    %d = "llvm.insertvalue"(%c, %sum)',
    )
    with pytest.raises(HostCodeError, match="a number made of an address"):
        described(module=module)


def test_arguments_in_another_form_are_refused():
    plan = SimpleNamespace(**{**vars(PLAN), "arguments": (("x", "bf16 3 0"), ("scale", "f32"))})
    with pytest.raises(HostCodeError, match="another form"):
        describe(MODULE.replace(MARK, CEIL), plan)
    with pytest.raises(HostCodeError, match="0 host functions"):
        describe(MODULE, SimpleNamespace(**{**vars(PLAN), "name": "other"}))


@pytest.mark.parametrize(
    ("text", "size", "alignment", "count"),
    [
        ("i1", 1, 1, 1),
        ("!llvm.ptr<1>", 8, 8, 1),
        ("!llvm.struct<()>", 0, 1, 0),
        ("!llvm.struct<(ptr<1>, struct<(struct<(i32, i32, i32)>, struct<(i64, i64)>)>)>", 40, 8, 6),
        ("!llvm.array<17 x struct<(i32, array<4 x i8>, array<64 x i8>)>>", 17 * 72, 4, 17 * 69),
        ("!llvm.struct<(struct<(array<16 x i64>)>)>", 128, 8, 16),
    ],
)
def test_types_are_laid_out_as_in_c(text, size, alignment, count):
    found = read_type(text)
    assert (found.size, found.alignment, len(list(found.leaves()))) == (size, alignment, count)


def test_text_is_split_outside_of_brackets():
    assert split("a: x<(b, c)>, d: (e, f) -> g") == ["a: x<(b, c)>", "d: (e, f) -> g"]
    assert split("") == []


def test_branches_hand_over_values():
    code = blocks(
        [
            "^bb0(%a: i32):",
            '%c = "llvm.icmp"(%a, %a) <{predicate = 0 : i64}> : (i32, i32) -> i1',
            '"llvm.cond_br"(%c, %a, %c)[^bb1, ^bb2] '
            "<{operandSegmentSizes = array<i32: 1, 1, 1>}> : (i1, i32, i1) -> ()",
            "^bb1(%b: i32):",
            '"llvm.return"(%b) : (i32) -> ()',
            "^bb2(%d: i1):",
            '"llvm.unreachable"() : () -> ()',
        ]
    )
    run = Run(code, [constant(7)])
    assert run.run() == [] and run.values["%b"] == constant(7)
    assert isinstance(Opaque("x"), Opaque)


SHAPES = st.integers(1, 2**31 - 1)


@st.composite
def trees(draw, depth=4):
    """(number, its value at x, y) of some arithmetic that a host function might do."""
    x, y = draw(SHAPES), draw(SHAPES)

    def build(left):
        kind = draw(st.integers(0, 9)) if left else draw(st.integers(0, 2))
        if kind == 0:
            return numbers.shape("t", 0), x
        if kind == 1:
            return numbers.shape("t", 1), y
        if kind == 2:
            value = draw(st.integers(0, 300))
            return constant(value), value
        (a, va), (b, vb) = build(left - 1), build(left - 1)
        if kind == 3:
            return numbers.add(a, b), va + vb
        if kind == 4:
            return numbers.mul(a, b), va * vb
        if kind == 5 and vb > 0 and b.low > 0:
            q, vq = numbers.div(a, b), va // vb
            up = numbers.add(q, constant(1))
            rest = numbers.opposite(numbers.equal(a, numbers.mul(q, b)))
            return numbers.select(rest, up, q), vq + (vq * vb != va)
        if kind == 6:
            return numbers.select(numbers.less(a, b), a, b), min(va, vb)
        if kind == 7:
            return numbers.select(numbers.less(a, b), b, a), max(va, vb)
        if kind == 8:
            mask = (1 << draw(st.integers(0, 40))) - 1
            shifted = numbers.both(numbers.right(a, constant(3)), constant(mask))
            return numbers.either(shifted, constant(1 << 41)), (va >> 3) & mask | 1 << 41
        by = draw(st.integers(0, 40))
        return numbers.left(a, constant(by), 64), (va << by) & (1 << 64) - 1

    made, value = build(depth)
    return made, value, (x, y)


def plain(tree):
    return [plain(x) for x in tree] if isinstance(tree, tuple) else tree


@given(trees())
def test_simplified_numbers_are_what_the_machine_computes(case):
    made, value, shape = case
    assert made.low <= value <= made.high
    assert number(plain(made.tree), {}, {"t": SimpleNamespace(shape=shape)}) == value


def test_an_address_cut_to_units_is_whole_again():
    cut = numbers.both(numbers.div(numbers.address("q", 32), constant(16)), constant(2**53 - 1))
    assert numbers.left(cut, constant(4), 64).tree == ("address", "q", 32)
    odd = numbers.div(numbers.address("q", 8), constant(16))
    assert numbers.left(odd, constant(4), 64).tree != ("address", "q", 8)


def test_parameters_lie_as_in_a_cubin():
    types = [
        "tensormap",
        "i32 i32 i32",
        "ptr i32 i32 i32 i64 i64 i64",
        "ptr i32",
        "i32",
        "tensormap",
    ]
    found = [(0, 128), (128, 12), (144, 48), (192, 16), (208, 4), (256, 128)]
    assert layout(types) == found


def test_a_call_becomes_its_launches():
    """In order, with the host's names, and what they share computed once."""
    tree = ["mul", ["shape", "x", 0], 2]
    facts = {"plan": "k", "arguments": ["x", "n"], "aligned": ["x"]}
    one = {"number": 1, "grid": [1, 1, 1], "parameters": [[tree, ["argument", "n"]]], **facts}
    two = {"number": 0, "grid": [tree, 1, 1], "parameters": [[["address", "x", 0], tree]], **facts}
    binaries = [SimpleNamespace(kernel=n, launch=x) for n, x in (("b", one), ("a", two))]
    steps = with_launches([["let", "z", 1], ["call", "k", ["q", "m"]], ["return", []]], binaries)
    assert steps == [
        ["let", "z", 1],
        ["rows", ["q"]],
        ["let", "_0", ["mul", ["shape", "q", 0], 2]],
        ["launch", "a", ["_0", 1, 1], [[["address", "q", 0], "_0"]]],
        ["launch", "b", [1, 1, 1], [["_0", "m"]]],
        ["return", []],
    ]
