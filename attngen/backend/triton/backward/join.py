"""Both loops in one launch: key tiles first, then query tiles, so only one tail is left waiting.

A launch ends when its last program does; two launches wait twice for the slowest tile. The two
kernels become functions of a third, which tells them their place.
"""

from __future__ import annotations

from attngen.backend.templates import render
from attngen.backend.triton.backward.kernels import KeysKernel, QueriesKernel
from attngen.backend.triton.tensors import Parameters
from attngen.backend.triton.text import call
from attngen.backend.value import ONE, Value
from attngen.schedule.backward import BackwardSchedule

BOUNDARY = "key_programs"


def can_join(schedule: BackwardSchedule, queries: QueriesKernel, keys: KeysKernel) -> bool:
    """Whether the loops may share a launch: same tiles and warps, one head of keys per query head.

    Packed sequences leave early from some programs and number them in their own way.
    """
    q, k = schedule.queries, schedule.keys
    alike = (q.block_q, q.block_k, q.warps, q.loads) == (k.block_q, k.block_k, k.warps, k.loads)
    plain = not queries.facts.packed and not keys.grouped and queries.programs != ONE
    return schedule.joined and alike and plain and queries.needed and keys.needed


def joined_parameters(
    queries: tuple[Parameters, list[str]], keys: tuple[Parameters, list[str]], boundary: Value
) -> tuple[Parameters, list[str]]:
    """The parameters of both, each once, and the number of programs that own keys."""
    both = Parameters()
    both.table |= {name: queries[0].table[name] for name in queries[1]}
    both.table |= {name: keys[0].table[name] for name in keys[1]}
    both.add(BOUNDARY, "i32", boundary)
    names = [*keys[1], *(name for name in queries[1] if name not in keys[1])]
    arrays = [n for n in names if both.table[n].type.startswith(("*", "tensordesc"))]
    return both, [*arrays, *(n for n in names if n not in arrays), BOUNDARY]


def joined_body(queries: tuple[str, list[str]], keys: tuple[str, list[str]]) -> str:
    """The text of the kernel that calls one of the two; each is (name, its parameters)."""
    (query_name, query_parameters), (key_name, key_parameters) = queries, keys
    last = f"program - {BOUNDARY}"
    return render(
        "triton/backward_joined.py.j2",
        boundary=BOUNDARY,
        keys=call(key_name, ["program", *key_parameters], "", 8),
        queries=call(query_name, [last, *query_parameters], "", 8),
    ).rstrip("\n")
