"""The wheel: a zip whose bytes depend on nothing but its files."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping

from attngen.aot.build import Built
from attngen.aot.text import text_files

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can tell
LEAST_TORCH = "2.11"  # the oldest that has been tried


def package_files(built: Built, distribution: str, namespace: str = "") -> dict[str, bytes]:
    """All files of the package's folder."""
    return {
        **built.files,
        **text_files(built, distribution, namespace),
        "manifest.json": manifest_bytes(built),
    }


def manifest_bytes(built: Built) -> bytes:
    """The manifest as it is stored."""
    return (json.dumps(built.manifest, sort_keys=True, separators=(",", ":")) + "\n").encode()


def wheel(built: Built, distribution: str) -> tuple[str, bytes]:
    """(file name, contents) of the wheel."""
    module, version = built.manifest["package"], built.manifest["version"]
    files = package_files(built, distribution)
    inside = {f"{module}/{path}": data for path, data in files.items()}
    info = f"{module}-{version}.dist-info"
    inside[f"{info}/METADATA"] = _metadata(built, distribution, files["README.md"])
    inside[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: attngen\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    inside[f"{info}/RECORD"] = _record(inside, f"{info}/RECORD")
    return f"{module}-{version}-py3-none-any.whl", archive(inside)


def archive(files: Mapping[str, bytes]) -> bytes:
    """A zip of the files in order of their names."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # the same from every system
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, files[name])
    return out.getvalue()


def _metadata(built: Built, distribution: str, readme: bytes) -> bytes:
    names = ", ".join(built.manifest["specs"])
    head = [
        "Metadata-Version: 2.1",
        f"Name: {distribution}",
        f"Version: {built.manifest['version']}",
        f"Summary: Attention kernels compiled ahead of time: {names}"[:500],
        "Requires-Python: >=3.10",
        f"Requires-Dist: torch>={LEAST_TORCH}",
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join(head).encode() + b"\n\n" + readme


def _record(files: Mapping[str, bytes], own: str) -> bytes:
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in sorted(files.items())]
    return ("\n".join([*lines, f"{own},,"]) + "\n").encode()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
