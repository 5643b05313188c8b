"""What a program has to be, beside what every CuTe kernel asks for, for a kernel of sm_100."""

from __future__ import annotations

from collections.abc import Iterator

from attngen.backend.cute.facts import traits
from attngen.backend.cute.parts import parts_of
from attngen.backend.cute.shape import missing
from attngen.ir.program import Program
from attngen.schedule.cute_blackwell import PART, WIDEST

QUERIES = 192  # columns: two tiles of wider queries leave no room for rings of keys and values


def missing_on_blackwell(program: Program) -> list[str]:
    """What of the program a kernel for sm_100 cannot do yet, in words; empty if it can do it."""
    found = missing(program)
    if not found:
        found = [x for part in parts_of(program) for x in _widths(part)]
    return list(dict.fromkeys(found))


def _widths(part: Program) -> Iterator[str]:
    """The limits of tensor memory and of shared memory."""
    facts = traits(part)
    if facts.value % PART or facts.value > WIDEST:
        yield f"values of {facts.value} columns (a multiple of {PART} up to {WIDEST} is needed)"
    if facts.query > QUERIES:
        yield f"queries of {facts.query} columns (up to {QUERIES})"
    if facts.several:
        yield "several sums of one softmax"
    if facts.packed:
        yield "packed sequences"
    if facts.searched:
        yield "bounds that are searched for (documents)"
