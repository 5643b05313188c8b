"""The backward of a program: a rows kernel, a loop over keys (dQ), one over queries (dK, dV)."""
