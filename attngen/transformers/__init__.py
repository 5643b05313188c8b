"""Hugging Face models with attngen's attention: `attn_implementation="attngen"`.

import attngen
attngen.transformers.register()
model = LlamaForCausalLM._from_config(config, attn_implementation="attngen")
"""

from __future__ import annotations

from attngen.core.diagnostics import CallError, Diagnostic
from attngen.runtime.settings import expect_interpreter
from attngen.transformers.attend import attend
from attngen.transformers.mask import Mask, make_mask

NAME = "attngen"


def register(name: str = NAME) -> None:
    """Make `attn_implementation=name` mean attngen, for masks too; again and again does no harm.

    CallError E525: transformers is not there, or older than its interfaces for attention and masks.
    """
    try:
        from transformers import (  # noqa: PLC0415 - an extra
            AttentionInterface,
            AttentionMaskInterface,
        )
    except ImportError as error:
        message = f"transformers with its attention interfaces is not installed: {error}"
        fix = 'pip install "attngen[transformers]"'
        raise CallError(Diagnostic("E525", message, help=fix)) from None
    expect_interpreter()
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, make_mask)


__all__ = ["NAME", "Mask", "attend", "make_mask", "register"]
