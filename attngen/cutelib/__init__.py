"""What every generated CuTe kernel is made of: pipelines, main loop, softmax, scheduling, launch.

A generated file holds what its spec decides, as small functions; this package turns them into a
kernel for sm_90a, or for sm_100a (blackwell.py: compiled, never run). It imports nothing of
attngen, and cutlass only when a kernel is compiled: a file can be read, and a compiled object run,
where the compiler is not installed.
"""
