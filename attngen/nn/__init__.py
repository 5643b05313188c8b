"""Attention of a spec as a `torch.nn.Module`."""

from attngen.nn.attention import Attention

__all__ = ["Attention"]
