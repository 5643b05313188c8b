"""Prints a backward plan as a Triton kernel of rows and one CuTe kernel of tiles."""
