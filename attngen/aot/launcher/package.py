"""What `__init__.py` of a package is made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .errors import NoBinaryError
from .kernel import Kernel
from .manifest import Package
from .operators import define

FORMS = ("forward", "decode", "training", "backward")


def open_package(root: Path, namespace: str = "") -> tuple[Package, dict[str, Kernel]]:
    """The kernels of a folder by name, their operators defined under a namespace."""
    package = Package(root)
    kernels = {name: Kernel(package, name) for name in package.manifest["specs"]}
    for kernel in kernels.values():
        define(namespace or package.name, kernel)
    return package, kernels


def preload(kernels: dict[str, Kernel], device: int | None = None) -> int:
    """Load every kernel for a GPU, so that the first call of each may be part of a graph.

    NoBinaryError: the package has none for it.
    """
    if not torch.cuda.is_available():
        raise NoBinaryError("there is no GPU to load kernels for")
    index = torch.cuda.current_device() if device is None else device
    with torch.cuda.device(index):
        torch.cuda.current_stream()  # torch makes its context current
        torch.cuda.synchronize()
        return sum(kernel.preload(index) for kernel in kernels.values())


def main(kernels: dict[str, Kernel], package: Package, arguments: Sequence[str]) -> int:
    """`python -m PACKAGE selfcheck|list`; exit status 0, 1 wrong results, 2 cannot run."""
    commands: dict[str, Callable[[], int]] = {
        "selfcheck": lambda: _selfcheck(kernels),
        "list": lambda: _list(kernels, package),
    }
    if len(arguments) != 1 or arguments[0] not in commands:
        print(f"usage: python -m {package.name} {'|'.join(commands)}", file=sys.stderr)
        return 2
    return commands[arguments[0]]()


def _selfcheck(kernels: dict[str, Kernel]) -> int:
    if not torch.cuda.is_available():
        print("there is no GPU to check kernels on", file=sys.stderr)
        return 2
    from .selfcheck import selfcheck  # noqa: PLC0415 - an import costs milliseconds

    device = torch.device("cuda", torch.cuda.current_device())
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    return 0 if selfcheck(list(kernels.values()), device) else 1


def _list(kernels: dict[str, Kernel], package: Package) -> int:
    print(f"{package.name} {package.version}")
    for kernel in kernels.values():
        for variant in kernel.spec["variants"]:
            sizes = " ".join(f"{n}={s}" for n, s in variant["sizes"].items())
            targets = sorted({t for programs in variant["programs"].values() for t in programs})
            forms = ", ".join(f for f in FORMS if f in variant["programs"])
            print(f"  {kernel.name} {variant['half']} {sizes}: {forms} for {', '.join(targets)}")
    return 0
