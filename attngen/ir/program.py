"""The whole compiled meaning of one attention spec: what the schedule and the backends read."""

from __future__ import annotations

from dataclasses import dataclass

from attngen.ir.attention import Attention
from attngen.ir.maskplan import MaskPlan
from attngen.ir.online import OnlinePlan


@dataclass(frozen=True)
class Program:
    """A spec after the passes.

    attention: sizes and dtypes known (no Size node, no `half` left);
    online, mask: what the two hard passes made of it.
    """

    attention: Attention
    online: OnlinePlan
    mask: MaskPlan
