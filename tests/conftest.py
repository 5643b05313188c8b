"""One thread for torch, a steady hypothesis, and which tests a machine can run."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from attngen.runtime.settings import gpu_present, prepare_interpreter

torch.set_num_threads(1)
os.environ.setdefault("ATTNGEN_BACKEND", "triton")  # whether or not the CuTe DSL is installed
prepare_interpreter()  # before any test module imports triton
settings.register_profile(  # the same examples in every run; `make slow` looks for new ones
    "attngen",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    database=None,
)
settings.register_profile("search", settings.get_profile("attngen"), derandomize=False)
settings.load_profile("attngen")


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` are skipped without a GPU, those of the interpreter with one."""
    if gpu_present():
        reason = "CUDA tensors are there: Triton is not interpreting"
        wrong = [i for i in items if i.get_closest_marker("interpreter")]
    else:
        reason = "needs a GPU"
        wrong = [i for i in items if i.get_closest_marker("gpu") or i.get_closest_marker("sm90")]
    for item in wrong:
        item.add_marker(pytest.mark.skip(reason=reason))
