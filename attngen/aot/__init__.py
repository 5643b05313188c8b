"""Packages: kernels compiled ahead of time, and a launcher that needs only torch and the driver."""
