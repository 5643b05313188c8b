"""Runs a spec's kernel on chosen inputs and judges it: what the differential tests share."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch

from attngen.core.source import Source
from attngen.frontend import load
from attngen.judge import judge
from attngen.reference.inputs import make_inputs
from attngen.runtime.kernel import Kernel
from attngen.runtime.settings import prepare_interpreter
from attngen.runtime.specialise import Spec

FOLDER = Path(__file__).parents[2] / "examples"
FORWARD = (
    *("flash", "gemma2", "alibi_documents", "prefix_lm", "sinks_gated", "relative_bias"),
    *("forgetting", "sigmoid", "differential", "parallax", "mla", "varlen", "dropout"),
    *("kmeans_assign", "knn", "boruvka"),
)
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
SMALL = {"block_q": 16, "block_k": 16, "warps": 1}


def device() -> str:
    """`cuda` in tests marked gpu, else `cpu` with the interpreter."""
    if torch.cuda.is_available():
        return "cuda"
    prepare_interpreter()
    return "cpu"


def example(name: str) -> str:
    """The text of an example."""
    return (FOLDER / f"{name}.attn").read_text(encoding="utf-8")


@functools.lru_cache(maxsize=512)
def _kernel(text: str, options: tuple[tuple[str, object], ...]) -> Kernel:
    source = Source("<test>", text)
    attention = load(source, {})
    return Kernel(Spec(source, {}, attention, {**dict(attention.schedule), **dict(options)}))


def kernel(text: str, **options: object) -> Kernel:
    """The kernel of a spec with schedule options on top of its own; the same one each time."""
    return _kernel(text, tuple(options.items()))


def inputs(made: Kernel, sizes: dict[str, int], seed: int = 0, **how: object) -> dict:
    """Random inputs of a kernel where the tests run; `half` and the rest as of `make_inputs`."""
    return make_inputs(made.spec.attention, sizes, seed, device(), **how)


def call(made: Kernel, tensors: dict) -> tuple[torch.Tensor, ...]:
    """The results, always a tuple."""
    results = made(**tensors)
    return results if isinstance(results, tuple) else (results,)


def problems(made: Kernel, tensors: dict, half: torch.dtype = torch.bfloat16) -> list[str]:
    """What is wrong with the results of a call, in words."""
    judged = judge(made.spec.attention, tensors, call(made, tensors), half)
    return [f"{j.name}: {j.verdict.message}" for j in judged if not j.verdict]


@dataclass(frozen=True)
class Case:
    """An example with the lengths of a call; `options`: of the schedule."""

    name: str
    sizes: dict[str, int] = field(hash=False)
    half: str = "bf16"
    options: dict[str, object] = field(default_factory=dict, hash=False)
    permuted: bool = False

    def problems(self, seed: int = 0) -> list[str]:
        """What is wrong with it."""
        made, half = kernel(example(self.name), **self.options), DTYPES[self.half]
        tensors = inputs(made, self.sizes, seed, half=half, permuted=self.permuted)
        return problems(made, tensors, half)


def axes(name: str, q_len: int, kv_len: int) -> dict[str, int]:
    """Lengths by every name the examples use for them."""
    lengths = {"Sq": q_len, "Skv": kv_len, "S": q_len, "T": q_len}
    return lengths | ({"K": kv_len} if name == "kmeans_assign" else {})
