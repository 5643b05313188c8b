"""Random masks from the whole grammar, as text."""

from hypothesis import strategies as st

small = st.integers(-9, 40).map(str)
scalar = st.sampled_from(["w", "g", "window", "left", "half", "prefix[b]", "window_of[h]"])
Q_TERMS = [
    "q_idx",
    "q_pos",
    "limit[b, q_idx]",
    "doc[b, q_idx]",
    "other[b, q_idx]",
    "runs[b, q_idx]",
]
K_TERMS = ["kv_idx", "kv_idx", *(f"{x}[b, kv_idx]" for x in ("doc", "start", "other", "pos"))]
leaf = st.one_of(
    st.sampled_from(Q_TERMS), st.sampled_from(K_TERMS), small, scalar, st.sampled_from(K_TERMS)
)
PARTS = ("({} + {})", "({} - {})", "({} - {})", "min({}, {})", "max({}, {})")
ORDER = ["<=", "<", ">", ">=", "==", "!="]
FLAGS = [
    "causal",
    "causal",
    "is_local[h]",
    "doc[b, q_idx] == doc[b, kv_idx]",
    "full[b, q_idx, kv_idx]",
]


def _grow(inner):
    two = st.tuples(st.sampled_from(PARTS), inner, inner).map(lambda t: t[0].format(*t[1:]))
    divisors, operators = st.sampled_from(["2", "5", "16", "stride"]), st.sampled_from(["//", "%"])
    divide = st.tuples(inner, operators, divisors).map(lambda t: "({} {} {})".format(*t))
    scale = st.tuples(inner, st.sampled_from(["2", "-3", "w"])).map(
        lambda t: "({} * {})".format(*t)
    )
    choice = st.tuples(inner, inner, inner, inner).map(
        lambda t: "where({} < {}, {}, {})".format(*t)
    )
    return st.one_of(two, two, divide, scale, inner.map("abs({})".format), choice)


number = st.recursive(leaf, _grow, max_leaves=4)
atom = st.one_of(
    st.tuples(number, st.sampled_from(ORDER), number).map(lambda t: "({} {} {})".format(*t)),
    st.sampled_from(FLAGS).map("({})".format),
)
mask = st.recursive(
    atom,
    lambda f: st.one_of(
        st.tuples(f, f).map(lambda t: "({} and {})".format(*t)),
        st.tuples(f, f).map(lambda t: "({} or {})".format(*t)),
        f.map("(not {})".format),
    ),
    max_leaves=6,
)


def needs_equal_lengths(text: str) -> bool:
    """Whether a vector along the keys is read at a query index."""
    return any(f"{x}[b, q_idx]" in text for x in ("doc", "other", "runs"))
