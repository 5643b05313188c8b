"""The table of docs/flex.md: which keys each mask visits, from its MaskPlan.

`python -m tests.differential.flex_table` writes it anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from attngen.flex import flex_kernel
from attngen.ir.index import TRUE, Opaque, walk
from attngen.ir.maskplan import MaskPlan
from tests.differential.flex_corpus import Case, corpus

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "flex.md"
BEGIN, END = "<!-- table: written by tests/differential/flex_table.py -->", "<!-- end -->"


def plan_of(case: Case) -> MaskPlan:
    b, h, q_len, kv_len = case.sizes
    q, k = torch.zeros(b, h, q_len, 16), torch.zeros(b, h, kv_len, 16)
    kernel = flex_kernel(q, k, k, case.score_mod, mask_mod=case.mask_mod, facts=dict(case.facts))
    return kernel.last.program.mask


def bounds(plan: MaskPlan) -> str:
    """Closed form, closed form with a test, or a test of every tile."""
    if plan.formula is TRUE:
        return "all keys"
    outer = plan.forward.outer
    narrow = not any(str(r.lo) == "0" and str(r.hi) == "kv_len" for r in outer)
    if not plan.forward.leftovers:
        return "closed form"
    opaque = any(isinstance(n, Opaque) for f in plan.forward.leftovers for n in walk(f))
    test = "every element is tested" if opaque else "tiles are tested at run time"
    return f"closed form around it, {test}" if narrow else test


def visited(plan: MaskPlan) -> str:
    text = " and ".join(f"`{r.lo} <= k < {r.hi}`" for r in plan.forward.outer) or "none"
    return text if len(text) <= 90 else f"{len(plan.forward.outer)} range(s)"


def table() -> str:
    lines = ["| mask or score | bounds | keys visited for queries q0 <= q < q1 |", "|---|---|---|"]
    for name, case in corpus().items():
        plan = plan_of(case)
        lines.append(f"| {name} | {bounds(plan)} | {visited(plan)} |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    return re.sub(rf"({BEGIN}\n).*?(\n{END})", lambda m: m[1] + table() + m[2], text, flags=re.S)


def main() -> None:
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
