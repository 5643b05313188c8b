"""What is known about each family of targets: points in order of preference, register use.

Points of sm_90 were measured on an H200 with Triton 3.6; the others, and all of `Registers`, were
read from compiler reports. docs/schedules.md has the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from attngen.core.target import Target
from attngen.schedule.cost import Registers

LIMIT = 255  # registers of a thread, on every target


@dataclass(frozen=True)
class Point:
    """One tile: block_q x block_k, warps, stages, a cap for the compiler.

    short: preferred where rows keep few keys or no running maximum is needed; programs: how many
    have to fit into a multiprocessor at once.
    """

    block_q: int
    block_k: int
    warps: int
    stages: int
    max_registers: int | None = None
    short: bool = False
    programs: int = 1

    @property
    def registers(self) -> float:
        """What an estimate may reach; a cap makes the compiler schedule tighter (measured)."""
        return LIMIT if self.max_registers is None else 1.2 * self.max_registers


@dataclass(frozen=True)
class Family:
    """Targets whose compiler treats a tile alike.

    descriptors: loads by tensor descriptor pay; rereads: a key tile that both products read is held
    twice in shared memory; unsorted: tiles (rows, keys) in which Triton's compiler fails on a sort.
    """

    name: str
    registers: Registers
    points: tuple[Point, ...]
    descriptors: bool = False
    rereads: bool = False
    unsorted: tuple[tuple[int, int], ...] = ()


# The tail that every family shares: ever smaller tiles, for wide heads and many accumulators.
_SMALL = (
    Point(64, 32, 8, 2),
    Point(64, 32, 8, 1),
    Point(32, 32, 8, 2),
    Point(32, 32, 8, 1),
    Point(32, 16, 8, 1),
    Point(16, 16, 8, 1),
)
HOPPER = Family(
    "wgmma",
    Registers(base=20),
    (
        Point(64, 64, 4, 3, short=True, programs=2),
        Point(128, 128, 8, 2, max_registers=128, programs=2),
        Point(128, 64, 4, 2, programs=2),
        Point(64, 64, 4, 3, programs=2),
        Point(64, 64, 4, 2, programs=2),
        Point(128, 64, 8, 2),
        Point(64, 64, 8, 2),
        Point(128, 32, 8, 2),
        *_SMALL,
    ),
    descriptors=True,
)
BLACKWELL = Family(
    "tcgen05",
    Registers(base=20),
    (
        Point(128, 64, 4, 3),
        Point(128, 64, 8, 2),
        Point(64, 64, 8, 2),
        Point(128, 32, 8, 2),
        *_SMALL,
    ),
    descriptors=True,
    rereads=True,
)
AMPERE = Family(
    "mma.sync",
    Registers(base=104, query=1.0),
    (
        Point(128, 64, 4, 3),
        Point(128, 64, 8, 3),
        Point(128, 32, 8, 2),
        Point(64, 64, 8, 2),
        *_SMALL,
    ),
    rereads=True,
)
CDNA = Family(
    "mfma",
    Registers(base=64, operand=1.0),
    (Point(128, 64, 8, 1), Point(128, 32, 8, 1), Point(64, 32, 4, 1), *_SMALL),
    unsorted=((128, 64), (64, 32)),  # Triton 3.7.1
)
RDNA = Family(
    "wmma",
    Registers(base=84, query=2.0, rows=16, operand=0.5),
    (Point(128, 32, 8, 1), Point(32, 32, 4, 1), Point(32, 16, 4, 1), Point(16, 16, 8, 1)),
)
_FAMILIES = {
    "sm_90": HOPPER,
    "interpreter": HOPPER,
    "sm_100": BLACKWELL,
    "gfx90a": CDNA,
    "gfx942": CDNA,
    "gfx1100": RDNA,
}


def family_of(target: Target) -> Family:
    """sm_75 and every consumer part takes Ampere's: products of warps on registers."""
    return _FAMILIES.get(target.name, AMPERE)
