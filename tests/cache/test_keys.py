"""Keys: different fields never give the same bytes to hash."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from attngen.runtime.fingerprint import digest, encode, generator, toolchain

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
)
FIELDS = st.recursive(
    SCALARS | st.binary(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def identity(value):
    """Equal exactly for values that mean the same field: 1, 1.0 and True do not."""
    match value:
        case dict():
            return ("M", tuple(sorted((k, identity(v)) for k, v in value.items())))
        case list() | tuple():
            return ("L", tuple(identity(v) for v in value))
        case float():
            return ("F", value.hex())
        case _:
            return (type(value).__name__, value)


@given(FIELDS, FIELDS)
@settings(max_examples=500, deadline=None)
def test_encoding_is_injective(a, b):
    assert (encode(a) == encode(b)) == (identity(a) == identity(b))


def test_ten_thousand_near_fields_give_as_many_keys():
    chance, keys, seen = random.Random(0), set(), set()
    pieces = [
        "",
        "a",
        "aa",
        "1",
        1,
        1.0,
        True,
        None,
        b"1",
        b"",
        ["a"],
        ["a", ""],
        [["a"]],
        {"a": 1},
    ]
    while len(seen) < 10_000:
        value = [chance.choice(pieces) for _ in range(chance.randrange(1, 6))]
        seen.add(identity(value))
        keys.add(digest("k", field=value))
    assert len(keys) == len(seen)


def test_what_once_collided_elsewhere():
    assert digest("k", a="x", b="") != digest("k", a="", b="x")
    assert digest("k", a="xb") != digest("k", a="x", b="")
    assert digest("ka", b=1) != digest("k", ab=1)
    assert digest("k", a=1) != digest("k", a=True)
    assert digest("k", a=-0.0) != digest("k", a=0.0)


def test_a_key_does_not_depend_on_the_order_of_fields():
    assert digest("k", a=1, b=2) == digest("k", b=2, a=1)


def test_generator_and_toolchain_are_known():
    assert len(generator()) == 64
    assert set(toolchain()) == {"triton", "python", "machine"}
