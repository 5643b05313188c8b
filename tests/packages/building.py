"""Packages for tests: built once, unpacked where only they and torch are."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import attngen
from attngen.aot.build import Built, Order, build
from attngen.aot.wheel import wheel
from attngen.core.dtype import Dtype
from attngen.core.target import find_target
from attngen.runtime.cache import Cache
from attngen.runtime.interface import feature_names

ROOT = Path(__file__).resolve().parents[2]


def built(
    paths: Sequence[Path],
    targets: Sequence[str],
    dtypes: Sequence[Dtype] = (Dtype.BF16,),
    cache: Cache | None = None,
    backward: bool = True,
    sizes: Sequence[int] = (128,),
    backend: str = "triton",
) -> Built:
    """A package named acme_kernels; the CuTe DSL need not be there for Triton's kernels."""
    specs = [attngen.compile(path).spec for path in paths]
    features = [{name: sizes for name in feature_names(s.interface)} for s in specs]
    chosen = [find_target(name) for name in targets]
    version = attngen.__version__
    named = "acme_kernels", "1.2.0"
    order = Order(*named, specs, features, dtypes, chosen, backward, version, backend)
    return build(order, cache or Cache())


def unpacked(package: Built, folder: Path) -> Path:
    """The folder, with the wheel installed into it as pip does."""
    name, data = wheel(package, "acme-kernels")
    file = folder / name
    file.write_bytes(data)
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
    file.unlink()
    return folder
