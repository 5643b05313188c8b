"""Random specs, compiled and held against the formula; failures are replayed and shrunk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from attngen.core.diagnostics import SpecError
from attngen.core.source import Source
from attngen.frontend import load
from attngen.judge import judge
from attngen.reference.generate import GeneratedSpec, random_spec, shrink
from attngen.reference.inputs import make_inputs
from attngen.runtime.kernel import Kernel
from attngen.runtime.specialise import Spec
from attngen.runtime.support import require_supported

NOT_BUILT = "E4"  # family of errors for what no backend compiles yet
NOTHING = "E201"  # a mask put together at random may keep nothing


@dataclass(frozen=True)
class Outcome:
    """What became of one spec. kind: "right", "refused" (E4, E201) or "failed"; message: why."""

    kind: str
    message: str = ""


@dataclass(frozen=True)
class Failure:
    """A seed whose kernel is wrong, with the smallest spec found that still is."""

    seed: int
    outcome: Outcome
    smallest: GeneratedSpec
    smallest_outcome: Outcome

    @property
    def command(self) -> str:
        """Replays it."""
        return f"attngen fuzz --seed {self.seed}"


def outcomes(seed: int, count: int, device: str) -> Iterator[tuple[int, Outcome]]:
    """Runs the specs of `count` seeds from `seed` on; yields each seed with its outcome."""
    for number in range(seed, seed + count):
        yield number, attempt(random_spec(number), device)


def attempt(spec: GeneratedSpec, device: str) -> Outcome:
    """Compile and run one spec on inputs of its own seed, and judge the results.

    Any exception but a refusal (E4, E201) is a failure: generated specs are valid.
    """
    try:
        problem = _run(spec, device)
    except SpecError as error:
        if all(d.code.startswith((NOT_BUILT, NOTHING)) for d in error.diagnostics):
            return Outcome("refused", error.diagnostics[0].message)
        return Outcome("failed", error.render())
    except Exception as error:  # whatever it is, it is what fuzzing looks for
        return Outcome("failed", f"{type(error).__name__}: {error}")
    return Outcome("failed", problem) if problem else Outcome("right")


def shrink_failure(
    seed: int, outcome: Outcome, device: str, attempted: Callable[[], object] = lambda: None
) -> Failure:
    """The smallest spec that fails like the seed's; `attempted` is called after each try."""

    def fails(spec: GeneratedSpec) -> bool:
        attempted()
        return attempt(spec, device).kind == "failed"

    smallest = shrink(random_spec(seed), fails)
    return Failure(seed, outcome, smallest, attempt(smallest, device))


def save_failure(failure: Failure, folder: Path) -> Path:
    """Writes the shrunk spec, and its sizes and message beside it; returns the path of the spec."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"seed_{failure.seed}.attn"
    path.write_text(failure.smallest.text, encoding="utf-8")
    call = {
        "seed": failure.seed,
        "sizes": failure.smallest.sizes,
        "half": failure.smallest.half,
        "message": failure.smallest_outcome.message,
    }
    path.with_suffix(".json").write_text(json.dumps(call, indent=2) + "\n", encoding="utf-8")
    return path


def _run(spec: GeneratedSpec, device: str) -> str:
    """Why the kernel is wrong, or nothing."""
    half = getattr(torch, spec.half)
    source = Source(f"<seed {spec.seed}>", spec.text)
    attention = require_supported(load(source, {}))
    tensors = make_inputs(attention, spec.sizes, seed=spec.seed, device=device, half=half)
    kernel = Kernel(Spec(source, {}, attention, dict(attention.schedule)))
    results = kernel(**tensors)
    results = results if isinstance(results, tuple) else (results,)
    wrong = [j for j in judge(attention, tensors, results, half) if not j.verdict]
    return "\n".join(f"{j.name}: {j.verdict.message}" for j in wrong)
