"""The host function of a kernel file, with everything compiled that can be before its call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attngen.backend.emitted import Emitted
from attngen.runtime.cache import Cache
from attngen.runtime.load import load_module


def entry_of(emitted: Emitted, cache: Cache | None) -> Callable[..., tuple[Any, ...]]:
    """The function to call; imports Triton or the CuTe DSL, whose kernels are compiled here."""
    module = load_module(emitted)
    if emitted.backend == "cute":
        from attngen.runtime.cute_objects import prepare  # noqa: PLC0415 - not for Triton's kernels

        prepare(module, emitted, Cache() if cache is None else cache)
    function: Callable[..., tuple[Any, ...]] = getattr(module, emitted.entry)
    return function
