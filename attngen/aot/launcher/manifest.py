"""The manifest of a package: read once, verified before a byte of it is used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .errors import DamagedError, SchemaError

SCHEMA = 1
KEYS = {"schema", "package", "version", "toolchain", "specs", "kernels", "answers"}


class Package:
    """A folder with a manifest and the files it names."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.manifest = _read(self.root / "manifest.json")
        self.name: str = self.manifest["package"]
        self.version: str = self.manifest["version"]
        self.kernels: dict[str, Any] = self.manifest["kernels"]

    def contents(self, entry: dict[str, Any]) -> bytes:
        """The bytes of a file of the manifest, `{"file", "sha256"}`.

        DamagedError: it is not there, leads out of the package, or is not what was built.
        """
        name = entry["file"]
        place = (self.root / name).resolve()
        if self.root not in place.parents:
            raise DamagedError(f"{self.name}: the manifest's path {name!r} leaves the package")
        try:
            data: bytes = place.read_bytes()
        except OSError as error:
            raise DamagedError(f"{self.name}: cannot read {name}: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise DamagedError(
                f"{self.name}: {name} is not the file that was built (its sha256 differs from the "
                f"manifest's): reinstall {self.name} {self.version}"
            )
        return data

    def image(self, entry: dict[str, Any]) -> bytes:
        """The binary of a kernel, unpacked after its hash was looked at."""
        data = self.contents(entry)
        if "packing" not in entry:
            return data
        if entry["packing"] != "xz":
            raise SchemaError(f"{self.name}: {entry['file']} is packed by {entry['packing']}")
        import lzma  # noqa: PLC0415 - some builds of Python lack it

        try:
            return lzma.decompress(data)
        except lzma.LZMAError as error:
            raise DamagedError(f"{self.name}: {entry['file']}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SchemaError(f"{path} cannot be read as a manifest: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("schema"), int):
        raise SchemaError(f"{path} is no manifest: it has no schema number")
    if found["schema"] > SCHEMA:
        raise SchemaError(
            f"{path} has schema {found['schema']}, this launcher reads up to {SCHEMA}: "
            "the package is put together from two versions"
        )
    missing = sorted(KEYS - set(found))
    if missing:
        raise SchemaError(f"{path} lacks {', '.join(missing)}")
    return found
