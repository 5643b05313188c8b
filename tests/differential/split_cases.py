"""Cases of the split form: the examples in several parts, whatever their lengths would choose."""

from __future__ import annotations

from collections.abc import Iterator

from tests.differential.example_cases import TWO_LENGTHS
from tests.differential.harness import FORWARD, Case, axes

# heads of keys and values, further declarations, score, rows that are summed
KEY_HEADS = {
    "fewer of values": ("Hkv", "Hv", "", "s", "v"),
    "fewer of keys": ("Hv", "Hkv", "", "s", "v"),
    "one of values": ("Hkv", "1", "", "s", "v"),
    "one of keys": ("1", "Hkv", "", "s", "v"),
    "all of keys": ("Hq", "Hkv", "", "s", "v"),
    "all of a further row": ("Hkv", "Hv", "input u : half[B, Hq, Skv, Dv]", "s", "v * u"),
    "a number of a key head": ("Hkv", "Hkv", "input c : f32[Hkv]", "s * c[h_kv]", "v"),
    "a column of a key head": (
        "Hkv",
        "Hv",
        "input c : f32[B, Hkv, Skv]",
        "s + c[b, h_kv, kv_idx]",
        "v",
    ),
    "a column of a query head": (
        "Hkv",
        "Hv",
        "input c : f32[B, Hq, Skv]",
        "s + c[b, h, kv_idx]",
        "v",
    ),
    "a second key": ("Hkv", "Hv", "key r : half[B, G, Skv, D]", "s + 0.2 * dot(q, r)", "v"),
}
COUNTS = {"Hq": 12, "Hkv": 2, "Hv": 3, "G": 6}


def key_heads(name: str) -> str:
    """A spec whose keys and values have heads of their own."""
    keys, values, more, score, rows = KEY_HEADS[name]
    return f"""attention heads_of_keys {{
  query q : half[B, Hq, Sq, D]
  key   k : half[B, {keys}, Skv, D]
  value v : half[B, {values}, Skv, Dv]
  {more}
  mask = kv_idx <= q_pos
  s = 0.3 * dot(q, k)
  out = sum(softmax({score}) * {rows})
  return out
}}
"""


WHOLE = ("dropout",)  # it has no split form: see `can_split`
QUERIES = {"f16": 1, "bf16": 3, "f32": 16}


def split_cases(few: int, same: int) -> Iterator[Case]:
    """`few`: keys against 1, 3 and 16 queries; `same`: length of specs that have only one."""
    for at, name in enumerate(name for name in FORWARD if name not in WHOLE):
        for i, (half, queries) in enumerate(QUERIES.items()):
            options = {"form": "split", "loads": ("descriptor", "pointer")[(at + i) % 2]}
            if name in TWO_LENGTHS:
                sizes = {"B": 2, "H": 2, "Hq": 4, "Hkv": 2, "D": 32, "Dv": 16}
                yield Case(name, sizes | axes(name, queries, few), half, options)
            # ALiBi is measured from the last key: far from it float32 has no bits left for that
            elif at % 2 == i:
                batch = 3 if name == "varlen" else 1
                sizes = {"B": batch, "H": 1, "Hq": 2, "Hkv": 1, "D": 32, "Dv": 16}
                yield Case(name, sizes | axes(name, same, same), half, options)
