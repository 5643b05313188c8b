"""A compiler that turns a declarative attention spec into GPU kernels."""
