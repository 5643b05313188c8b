"""What every backward kernel is printed from, besides what a forward kernel has."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.backend.triton.backward.program import Backward
from attngen.backend.triton.backward.store import Stores
from attngen.backend.triton.context import Context
from attngen.backend.triton.layout import Layout
from attngen.backend.triton.shape import Frame
from attngen.backend.value import Value
from attngen.core.target import Target
from attngen.ir.expr import Known
from attngen.schedule.schedule import Schedule


@dataclass(frozen=True)
class Sum:
    """One accumulator of a loop: its names per chunk, initial values, the lines that add to it."""

    leaf: Known
    names: tuple[str, ...]
    inits: tuple[str, ...]
    lines: tuple[str, ...]


class BackwardContext(Context):
    """One backward kernel being printed. sums: accumulators of its loop, by the leaf they make."""

    def __init__(
        self,
        backward: Backward,
        schedule: Schedule,
        target: Target,
        entry: str,
        cuts: Layout,
        frame: Frame | None = None,
    ) -> None:
        super().__init__(backward.program, schedule, target, entry, frame, cuts)
        self.backward = backward
        self.stores = Stores(self)
        self.sums: dict[Known, Sum] = {}

    @property
    def tile(self) -> str:
        """What a step of the loop takes, in words; empty without a loop."""
        return ""

    @property
    def grouped(self) -> bool:
        """Whether the program owns keys that several query heads share."""
        return False

    @property
    def key_heads(self) -> Value:
        """Host value: heads of the programs that own keys."""
        return self.sizes.heads
