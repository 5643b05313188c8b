"""Choosing a schedule without a GPU."""

from __future__ import annotations

from collections.abc import Mapping

from attngen.core.target import Target
from attngen.ir.program import Program
from attngen.schedule.schedule import Schedule


def choose(program: Program, target: Target, options: Mapping[str, str | int | bool] | None = None) -> Schedule:
    """A good point of the space for this program and target."""
    return Schedule(128, 64, 4, 2, "descriptor" if target.descriptors else "pointer")
