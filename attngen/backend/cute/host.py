"""Steps of the host functions of CuTe kernels that Triton's do not have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attngen.backend.triton.host import Allocate, Launch, Let, Result, Return, Step
from attngen.backend.triton.text import call


@dataclass(frozen=True)
class Working(Result):
    """Working memory, made from a tensor; after: a comment on the line."""

    after: str = ""

    def lines(self) -> list[str]:
        """Python text."""
        (line,) = super().lines()
        return [f"{line}  # {self.after}" if self.after else line]


@dataclass(frozen=True)
class Call:
    """The launches of a compiled plan. constant: its name in the file; arguments: of the plan.

    As data it names the plan: what its launches are is read out of the compiled code when the
    kernel is packaged (`cutelib.host`), and takes its place.
    """

    constant: str
    plan_name: str
    arguments: tuple[str, ...]

    def lines(self) -> list[str]:
        """Python text."""
        return call(self.constant, self.arguments, "").split("\n")

    def plan(self) -> list[Any]:
        """Plain data."""
        return ["call", self.plan_name, list(self.arguments)]


@dataclass(frozen=True)
class Ends:
    """Where the run of equal numbers around each element of a sorted array ends."""

    name: str
    tensor: str

    def lines(self) -> list[str]:
        """Python text."""
        given = [self.tensor, self.tensor, "right=True", "out_int32=True"]
        return call(f"{self.name} = torch.searchsorted", given, "").split("\n")

    def plan(self) -> list[Any]:
        """Plain data."""
        return ["ends", self.name, self.tensor]


CuteStep = Step | Call | Ends
__all__ = ["Allocate", "Call", "CuteStep", "Ends", "Launch", "Let", "Result", "Return", "Working"]
