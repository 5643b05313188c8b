"""A compiler that turns a declarative attention spec into GPU kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attngen import flex, nn, transformers
    from attngen.core.diagnostics import AttngenError, CallError, SpecError
    from attngen.decorator import attention
    from attngen.flex import flex_attention
    from attngen.runtime.kernel import Kernel, compile

__all__ = [
    "AttngenError",
    "CallError",
    "Kernel",
    "SpecError",
    "__version__",
    "attention",
    "compile",
    "flex",
    "flex_attention",
    "nn",
    "transformers",
]
__version__ = "0.1.0"

_HOMES = {
    "AttngenError": "attngen.core.diagnostics",
    "CallError": "attngen.core.diagnostics",
    "SpecError": "attngen.core.diagnostics",
    "Kernel": "attngen.runtime.kernel",
    "attention": "attngen.decorator",
    "compile": "attngen.runtime.kernel",
    "flex_attention": "attngen.flex",
}
_MODULES = frozenset({"flex", "nn", "transformers"})


def __getattr__(name: str) -> Any:
    """Imported on first use: `import attngen` must stay fast and free of torch and triton."""
    if name not in _HOMES and name not in _MODULES:
        raise AttributeError(f"module attngen has no attribute {name}")
    import importlib  # noqa: PLC0415 - not needed by `import attngen`

    if name in _MODULES:
        return importlib.import_module(f"attngen.{name}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
