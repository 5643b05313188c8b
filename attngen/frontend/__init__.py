"""Tree to checked IR."""

from attngen.frontend.load import load, lower

__all__ = ["load", "lower"]
