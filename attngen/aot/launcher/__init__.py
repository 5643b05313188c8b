"""The run-time half of a package: torch, ctypes and the driver; no compiler.

These files are copied into every package as they are. They import nothing but the standard library,
torch and each other.
"""
