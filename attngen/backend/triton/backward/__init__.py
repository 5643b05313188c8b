"""The backward of a program: a rows kernel, a loop over keys (dQ) and a loop over queries (dK, dV)."""
