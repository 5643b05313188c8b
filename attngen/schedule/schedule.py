"""A schedule: how a program is tiled and staged. It changes speed, results only in rounding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """One point of the schedule space of the Triton backend.

    block_q, block_k: rows of a query tile and of a key tile (powers of two);
    warps: warps of a program; stages: depth of the software pipeline of the loop over keys;
    loads: "descriptor" or "pointer"; loops: "split" (partial / full / partial), "single" (every
    tile masked) or "joined" (one loop that tests whether to mask); form: "tile" (a program owns
    queries of one head) or "split" (a program owns all queries of a group of heads and a part of
    the keys; a second kernel merges the parts);
    max_registers: cap for the compiler, or None; precision: of fp32 products, "tf32" or "ieee".
    """

    block_q: int
    block_k: int
    warps: int
    stages: int
    loads: str
    loops: str = "split"
    form: str = "tile"
    max_registers: int | None = None
    precision: str = "ieee"

    def describe(self) -> str:
        """One line for headers and `explain`."""
        parts = [f"block_q={self.block_q}", f"block_k={self.block_k}", f"warps={self.warps}"]
        parts += [f"stages={self.stages}", f"loads={self.loads}", f"loops={self.loops}"]
        parts.append(f"form={self.form}")
        if self.max_registers:
            parts.append(f"max_registers={self.max_registers}")
        return ", ".join([*parts, f"precision={self.precision}"])
