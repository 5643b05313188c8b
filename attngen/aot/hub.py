"""`--format hf-kernels`: the folder that the `kernels` package of Hugging Face loads.

Variants that name only `torch-cuda` or `torch-rocm` fit every version of torch. Operators of a hub
kernel need a namespace of their own, which ends in a hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from attngen.aot.build import Built
from attngen.aot.wheel import manifest_bytes, package_files

LICENSE = "Apache-2.0"
BACKENDS = {"cubin": "cuda", "hsaco": "rocm"}
CAPABILITIES = {
    "sm_75": ["7.5"],
    "sm_80": ["8.0", "8.6", "8.9"],
    "sm_86": ["8.6", "8.9"],
    "sm_89": ["8.9"],
    "sm_90a": ["9.0"],
    "sm_100f": ["10.0", "10.3"],
    "sm_120f": ["12.0", "12.1"],
}
# a hub kernel is asked for by the name of its repository, and has to answer as a package of its own
INNER = """import importlib.util
import sys
from pathlib import Path

_place = Path(__file__).resolve().parent.parent / "__init__.py"
_spec = importlib.util.spec_from_file_location(
    f"{__name__}_kernels", _place, submodule_search_locations=[str(_place.parent)]
)
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module
_spec.loader.exec_module(_module)
globals().update({k: v for k, v in vars(_module).items() if not k.startswith("__")})
"""


def hub(built: Built, distribution: str) -> dict[str, bytes]:
    """Relative path -> contents: build/torch-cuda/..., build/torch-rocm/..., README.md."""
    kinds = sorted({k["kind"] for k in built.manifest["kernels"].values()})
    files: dict[str, bytes] = {}
    for kind in kinds:
        backend = BACKENDS[kind]
        part = only(built, kind)
        unique = hashlib.sha256(manifest_bytes(part)).hexdigest()[:8]
        namespace = f"_{part.manifest['package']}_{backend}_{unique}"
        inside = package_files(part, distribution, namespace)
        inside[f"{part.manifest['package']}/__init__.py"] = INNER.encode()
        inside["metadata.json"] = _metadata(part, distribution, namespace, backend, inside)
        files |= {f"build/torch-{backend}/{path}": data for path, data in inside.items()}
        files["README.md"] = inside["README.md"]
    return files


def only(built: Built, kind: str) -> Built:
    """The package with binaries of one kind."""
    kernels = {n: k for n, k in built.manifest["kernels"].items() if k["kind"] == kind}
    manifest = json.loads(json.dumps(built.manifest))
    manifest["kernels"] = {n: k for n, k in manifest["kernels"].items() if n in kernels}
    for spec in manifest["specs"].values():
        for variant in spec["variants"]:
            variant["programs"] = {
                form: {
                    t: p for t, p in programs.items() if set(p["kernels"].values()) <= {*kernels}
                }
                for form, programs in variant["programs"].items()
            }
    kept = {k["file"] for k in kernels.values()}
    others = {k["file"] for k in built.manifest["kernels"].values()} - kept
    files = {path: data for path, data in built.files.items() if path not in others}
    return Built(manifest, files, built.notes)


def _metadata(
    built: Built, distribution: str, namespace: str, backend: str, files: dict[str, bytes]
) -> bytes:
    digests = {
        path: base64.b64encode(hashlib.sha256(data).digest()).decode()
        for path, data in sorted(files.items())
    }
    made: dict[str, Any] = {
        "name": distribution,
        "id": namespace,
        "version": 1,
        "license": LICENSE,
        "python-depends": [],
        "backend": {"type": backend, "archs": _architectures(built)},
        "digest": {"algorithm": "sha256", "files": digests},
    }
    return (json.dumps(made, indent=1) + "\n").encode()


def _architectures(built: Built) -> list[str]:
    archs = {k["arch"] for k in built.manifest["kernels"].values()}
    return sorted({c for arch in archs for c in CAPABILITIES.get(arch, [arch])})
