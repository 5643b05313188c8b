"""Cases of the split form: the examples in several parts, whatever their lengths would choose."""

from __future__ import annotations

from collections.abc import Iterator

from tests.differential.example_cases import TWO_LENGTHS
from tests.differential.harness import FORWARD, Case, axes

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
