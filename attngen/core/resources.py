"""Finds `grammar/` and `templates/`: inside the installed package, else beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def resource(*parts: str) -> Path:
    """Path of a data file such as `resource("grammar", "attn.lark")`."""
    packaged = PACKAGE.joinpath("_data", *parts)
    return packaged if packaged.exists() else PACKAGE.parent.joinpath(*parts)
