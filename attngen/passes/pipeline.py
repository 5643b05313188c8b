"""The passes in order: a checked spec becomes a program."""

from __future__ import annotations

from collections.abc import Mapping

from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention
from attngen.ir.program import Program
from attngen.passes.bounds import analyse_mask
from attngen.passes.online import online
from attngen.passes.rename import rename_reserved
from attngen.passes.specialise import specialise


def build_program(attention: Attention, sizes: Mapping[str, int], half: Dtype) -> Program:
    """Rename what generated files need, specialise, find the online form, analyse the mask.

    sizes: feature axes by name; half: what `half` stands for. SpecError: E3 for a missing size
    and E4 for a formula without a one-pass (or staged) form.
    """
    special = specialise(rename_reserved(attention), sizes, half)
    return Program(special, online(special), analyse_mask(special))
