"""The schedule of a backward whose tiles a CuTe kernel works on. docs/adr/0011."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.schedule.schedule import Schedule

SHORT = 128  # columns of keys and values whose sums leave registers for steps of 128 queries


@dataclass(frozen=True)
class CuteBackwardSchedule:
    """One schedule per kernel.

    rows: of the Triton kernel of rows; tile_m: queries of a step; tile_n: keys of a block of
    threads; stages: of the rings of Q and dO; ordered: dQ is summed in a fixed order; pin: keep
    exponentials above the wait for the second product; beside: heads of keys that run side by side:
    fewer share what they read in the L2 cache with more blocks of the same head, more wait less for
    their turn to add to dQ.
    """

    rows: Schedule
    tile_m: int = 64
    tile_n: int = 128
    stages: int = 2
    ordered: bool = True
    pin: bool = False
    beside: int = 16

    def describe(self) -> str:
        """One line for headers and `explain`."""
        order = "fixed order" if self.ordered else "any order"
        return (
            f"backend=cute, tile_m={self.tile_m}, tile_n={self.tile_n}, stages={self.stages}, "
            f"warpgroups={self.tile_n // 64}, dQ summed in {order}"
        )


def choose_cute_backward(
    rows: Schedule, columns: int, *, carries: bool, ordered: bool
) -> CuteBackwardSchedule:
    """A good point.

    rows: of the rows kernel; columns: of keys and values together; carries: a pair keeps another
    number than its weight for its derivative, which takes registers; ordered: see the class.
    """
    tile_m = 128 if columns <= SHORT and not carries else 64
    return CuteBackwardSchedule(rows, tile_m=tile_m, ordered=ordered)
