"""Text to tree."""

from attngen.syntax.parse import parse

__all__ = ["parse"]
