"""Compiling, caching, calling."""
