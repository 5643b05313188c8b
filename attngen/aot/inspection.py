"""What is inside a package: read from a wheel or a folder, without running any of it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngen.aot.elf import Facts, read
from attngen.aot.packing import unpacked
from attngen.core.diagnostics import Diagnostic, SpecError

SCHEMA = 1
FORMS = ("forward", "decode", "training", "backward")
LARGEST = 1 << 28  # bytes of one file


@dataclass(frozen=True)
class Found:
    """One use of a binary. facts: what the file itself says; damage: what is wrong with it."""

    spec: str
    variant: str
    form: str
    target: str
    kernel: str
    entry: dict[str, Any]
    facts: Facts | None
    damage: str


@dataclass(frozen=True)
class Contents:
    """A package: its manifest, the use of each binary, and the bytes of all files."""

    manifest: dict[str, Any]
    found: tuple[Found, ...]
    files: int
    size: int


def inspect(path: Path) -> Contents:
    """SpecError E330: no package; a damaged binary is listed as one."""
    files = _folder(path) if path.is_dir() else _wheel(path)
    manifests = [name for name in files if name.rpartition("/")[2] == "manifest.json"]
    if len(manifests) != 1:
        raise _refusal(f"{path} holds {len(manifests)} manifests: it is no package of attngen")
    root = manifests[0].removesuffix("manifest.json")
    manifest = _manifest(path, files[manifests[0]])
    size = path.stat().st_size if path.is_file() else sum(map(len, files.values()))
    return Contents(manifest, tuple(_uses(manifest, files, root)), len(files), size)


def _wheel(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as file:
            entries = [e for e in file.infolist() if not e.is_dir()]
            large = [e.filename for e in entries if e.file_size > LARGEST]
            if large:
                raise _refusal(f"{path}: {large[0]} is too large to be part of a package")
            return {e.filename: file.read(e) for e in entries}
    except OSError as error:
        raise _refusal(f"cannot read {path}: {error.strerror}") from None
    except zipfile.BadZipFile as error:
        raise _refusal(f"{path} is not a wheel: {error}") from None


def _folder(path: Path) -> dict[str, bytes]:
    files = (p for p in sorted(path.rglob("*")) if p.is_file())
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in files}


def _manifest(path: Path, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
        if found["schema"] > SCHEMA:
            raise _refusal(f"{path} has schema {found['schema']}; this attngen reads {SCHEMA}")
        return {key: found[key] for key in ("package", "version", "toolchain", "specs", "kernels")}
    except (ValueError, KeyError, TypeError) as error:
        raise _refusal(f"{path}: its manifest cannot be read ({error})") from None


def _uses(manifest: dict[str, Any], files: dict[str, bytes], root: str) -> Iterator[Found]:
    read_once: dict[str, tuple[Facts | None, str]] = {}
    for name, spec in manifest["specs"].items():
        for variant in spec["variants"]:
            sizes = (f"{n}={s}" for n, s in variant["sizes"].items())
            text = " ".join([variant["half"], *sizes])
            for form in FORMS:
                for target, kernel, number in _kernels(variant["programs"].get(form, {})):
                    entry = manifest["kernels"][number]
                    if number not in read_once:
                        read_once[number] = _look(entry, files.get(root + entry["file"]))
                    yield Found(name, text, form, target, kernel, entry, *read_once[number])


def _kernels(programs: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(target, name, key) of all kernels; those for older drivers after the others."""
    for target, program in programs.items():
        for own in (program, program.get("fallback")):
            for kernel, number in (own or {"kernels": {}})["kernels"].items():
                yield target, kernel, number


def _look(entry: dict[str, Any], data: bytes | None) -> tuple[Facts | None, str]:
    if data is None:
        return None, "missing"
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        return None, "damaged: sha256 differs"
    symbol = entry["symbol"] if entry["backend"] == "cute" else ""
    try:
        return read(unpacked(entry, data), symbol), ""
    except ValueError as error:
        return None, str(error)


def _refusal(message: str) -> SpecError:
    return SpecError(Diagnostic("E330", message, help="attngen inspect dist/NAME-VERSION.whl"))
