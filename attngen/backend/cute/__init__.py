"""Prints programs as the plan of a kernel of `attngen.cutelib` (NVIDIA CuTe DSL, sm_90a)."""
