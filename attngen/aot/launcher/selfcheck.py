"""`python -m PACKAGE selfcheck`: every kernel on the GPU against its stored answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from .answers import Answers, judge, stream
from .arguments import DTYPES, HALVES
from .kernel import Kernel

Say = Callable[[str], object]


def selfcheck(kernels: list[Kernel], device: torch.device, say: Say = print) -> bool:
    """Whether all of them are right; says so for each."""
    failed = 0
    for kernel in kernels:
        entry = kernel.package.manifest["answers"].get(kernel.name)
        if entry is None:
            say(f"FAILED {kernel.name}: the package has no answer for it")
            failed += 1
            continue
        answers = Answers.read(kernel.package.contents(entry))
        for variant in kernel.spec["variants"]:
            for label, problems in _both(kernel, variant, answers, device):
                failed += bool(problems)
                say(f"{'FAILED' if problems else 'right '} {label} {'; '.join(problems)}".rstrip())
    say(f"{failed} failed" if failed else "every kernel gives its stored answer")
    return not failed


def _both(
    kernel: Kernel, variant: dict[str, Any], answers: Answers, device: torch.device
) -> Iterator[tuple[str, list[str]]]:
    """With the best programs, and with those for older drivers."""
    yield from _variant(kernel, variant, answers, device)
    programs = [p for by_target in variant["programs"].values() for p in by_target.values()]
    if any("fallback" in p for p in programs):
        kernel.prefer(fallback=True)
        try:
            for label, problems in _variant(kernel, variant, answers, device):
                yield f"{label}, for older drivers", problems
        finally:
            kernel.prefer(fallback=False)


def _variant(
    kernel: Kernel, variant: dict[str, Any], answers: Answers, device: torch.device
) -> Iterator[tuple[str, list[str]]]:
    half = variant["half"]
    about = " ".join([half, *(f"{n}={s}" for n, s in variant["sizes"].items())])
    for case in answers.cases:
        if any(case["lengths"][n] != s for n, s in variant["sizes"].items()):
            continue
        values = arguments(kernel, case, answers, half, device)
        label = f"{kernel.name} {about} {case['form']}"
        with torch.no_grad():
            found = kernel(*values)
        results = [found] if kernel.single else list(found)
        yield label, _compare(kernel.outputs, results, case["results"], answers, half)
        if variant["wiring"] is not None and case["gradients"]:
            yield f"{label} and backward", _gradients(kernel, case, answers, half, values)


def arguments(
    kernel: Kernel, case: dict[str, Any], answers: Answers, half: str, device: torch.device
) -> list[Any]:
    """What a case is called with."""
    values: list[Any] = []
    for number, declared in enumerate(kernel.declared):
        given = case["inputs"][declared["name"]]
        dtype = HALVES[half] if declared["dtype"] == "half" else DTYPES[declared["dtype"]]
        if "number" in given:
            values.append(given["number"])
        elif "at" in given:
            values.append(answers.tensor(given).to(dtype).to(device))
        else:
            values.append(stream(number, given["shape"]).to(dtype).to(device))
    return values


def _compare(
    outputs: list[dict[str, Any]],
    results: list[torch.Tensor],
    wanted: list[dict[str, Any]],
    answers: Answers,
    half: str,
) -> list[str]:
    problems = []
    for output, found, entry in zip(outputs, results, wanted, strict=True):
        if problem := judge(found, answers.tensor(entry), half):
            problems.append(f"{output['name']}: {problem}")
    return problems


def _gradients(
    kernel: Kernel, case: dict[str, Any], answers: Answers, half: str, values: list[Any]
) -> list[str]:
    leaves = [
        v.detach().requires_grad_() if i in kernel.floats else v for i, v in enumerate(values)
    ]
    found = kernel(*leaves)
    results = [found] if kernel.single else list(found)
    kinds = [r for r in results if r.is_floating_point()]
    seeds = [stream(100 + i, r.shape).to(r.dtype).to(r.device) for i, r in enumerate(kinds)]
    torch.autograd.backward(kinds, seeds)
    names = [d["name"] for d in kernel.declared]
    problems = []
    for name, entry in case["gradients"].items():
        gradient = leaves[names.index(name)].grad
        problem = (
            "no gradient" if gradient is None else judge(gradient, answers.tensor(entry), half)
        )
        if problem:
            problems.append(f"gradient of {name}: {problem}")
    return problems
