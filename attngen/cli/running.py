"""Runs a kernel on random inputs: shared by `run`, `bench`, `tune` and `demo`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from attngen.cli.building import Options, runtime_spec
from attngen.cli.defaults import axis_sizes
from attngen.cli.input import Spec
from attngen.core.target import find_target
from attngen.judge import Argument, Judged, judge
from attngen.reference.inputs import make_inputs
from attngen.runtime.kernel import Kernel
from attngen.runtime.settings import gpu_present, prepare_interpreter
from attngen.runtime.specialise import Spec as RuntimeSpec

TORCH_HALF = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


@dataclass(frozen=True)
class Trial:
    """A kernel, the inputs it is called with, and their lengths."""

    kernel: Kernel
    tensors: Mapping[str, Argument]
    sizes: Mapping[str, int]
    half: torch.dtype
    device: str

    def call(self) -> tuple[torch.Tensor, ...]:
        """The results, always as a tuple."""
        results = self.kernel(**self.tensors)
        return results if isinstance(results, tuple) else (results,)

    def judge(self) -> tuple[Judged, ...]:
        """Verdict on every result."""
        return judge(self.kernel.spec.attention, self.tensors, self.call(), self.half)

    @property
    def place(self) -> str:
        """Where it runs, for people."""
        if self.device == "cpu":
            return "Triton's interpreter on the CPU"
        return torch.cuda.get_device_name()


def prepare(
    spec: Spec,
    sizes: Mapping[str, int],
    dtype: str | None,
    seed: int,
    options: Options | None = None,
    target: str | None = None,
) -> Trial:
    """Random inputs and a kernel, on the GPU if there is one, else for the interpreter."""
    device = pick_device()
    half = TORCH_HALF[dtype or default_dtype(device)]
    given = runtime_spec(spec)
    chosen = RuntimeSpec(
        given.source, given.params, given.attention, {**given.options, **(options or {})}
    )
    lengths = axis_sizes(spec, sizes, gpu=device == "cuda")
    tensors = make_inputs(given.attention, lengths, seed=seed, device=device, half=half)
    kernel = Kernel(chosen, find_target(target) if target else None)
    return Trial(kernel, tensors, lengths, half, device)


def pick_device() -> str:
    """`cuda` if there is a GPU, else `cpu`, with Triton's interpreter switched on."""
    if gpu_present():
        return "cuda"
    prepare_interpreter()
    return "cpu"


def default_dtype(device: str) -> str:
    """What `half` is when nobody said: the interpreter cuts bfloat16 off where a GPU rounds it."""
    return "bf16" if device == "cuda" else "f16"


def seconds_of(trial: Trial) -> float:
    """Median time of a call: on the GPU by its own clock, else one call."""
    if trial.device == "cpu":
        start = time.perf_counter()
        trial.call()
        return time.perf_counter() - start
    from triton.testing import do_bench

    median = do_bench(trial.call, return_mode="median")  # type: ignore[no-untyped-call] # untyped in its library
    return float(median) / 1e3


def traffic(trial: Trial) -> int:
    """Bytes of all tensors of a call, inputs and results."""
    tensors = [t for t in (*trial.tensors.values(), *trial.call()) if isinstance(t, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)


def describe_sizes(trial: Trial) -> str:
    """`bf16 B=1 Hq=2 Sq=128 ...`, with the run-time scalars that were drawn."""
    dtype = next(name for name, half in TORCH_HALF.items() if half == trial.half)
    sizes = [f"{name}={size}" for name, size in trial.sizes.items()]
    return " ".join([dtype, *sizes, *scalars_of(trial.tensors)])


def scalars_of(tensors: Mapping[str, Any]) -> list[str]:
    """Run-time scalars that were drawn: `window=37`."""
    drawn = {n: v for n, v in tensors.items() if not isinstance(v, torch.Tensor)}
    return [f"{n}={v:.6g}" if isinstance(v, float) else f"{n}={v}" for n, v in drawn.items()]
