"""Puts generated kernels into a folder: all of them or none, never over a file a user took over.

Layout: `<folder>/<spec>/<target>/<spec>.py` with `MANIFEST.json` beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attngen.cli.mistake import InputError
from attngen.core.version import VERSION

if TYPE_CHECKING:
    from attngen.cli.building import Built

MARK = "[attngen:generated]"
SCHEMA = 1


def kernel_path(built: Built) -> str:
    """Where the kernel goes, relative to the output folder."""
    name = built.spec.attention.name
    return f"{name}/{built.target.name}/{name}.py"


def files_of(built: Built) -> dict[str, str]:
    """Relative path -> text of the kernel and its manifest."""
    path = kernel_path(built)
    manifest = json.dumps(manifest_of(built), indent=2, sort_keys=True) + "\n"
    return {path: built.emitted.source, f"{path.rpartition('/')[0]}/MANIFEST.json": manifest}


def manifest_of(built: Built) -> dict[str, object]:
    """What the kernel was made from, and the hash that tells whether it was edited."""
    spec = built.spec
    return {
        "schema": SCHEMA,
        "attngen": VERSION,
        "spec": spec.attention.name,
        "spec_sha256": _sha256(spec.source.text),
        "target": built.target.name,
        "half": built.dtype,
        "sizes": spec.sizes,
        "params": dict(spec.attention.params),
        "schedule": built.schedule.describe(),
        "entry": built.emitted.entry,
        "arguments": list(built.emitted.arguments),
        "outputs": list(built.emitted.outputs),
        "kernels": [kernel.name for kernel in built.emitted.kernels],
        "files": {kernel_path(built).rpartition("/")[2]: _sha256(built.emitted.source)},
    }


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Writes all files or none; returns the paths. Unchanged files are not touched.

    Raises InputError for a file without its mark, or a path that would leave the folder.
    """
    root = folder.resolve()
    if root.exists() and not root.is_dir():
        raise InputError(f"{folder} is not a folder", "-o kernels")
    paths = {path: _inside(root, path) for path in files}
    for path, place in paths.items():
        _refuse_taken_over(folder / path, place)
    staged: list[tuple[str, Path]] = []
    try:
        for path, place in paths.items():
            if not place.exists() or place.read_text(encoding="utf-8") != files[path]:
                staged.append((_stage(place, files[path]), place))
        for temporary, place in staged:
            os.replace(temporary, place)
    finally:
        for temporary, _ in staged:
            Path(temporary).unlink(missing_ok=True)
    return [folder / path for path in files]


def _inside(root: Path, path: str) -> Path:
    parts = path.split("/")
    # names come from the checked grammar; this is the second lock on the door
    if not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.]*", part) for part in parts):
        raise InputError(f"{path!r} is not a path attngen would write")
    place = root.joinpath(*parts)
    if not place.resolve().is_relative_to(root):
        raise InputError(
            f"{place} leads outside {root}: a link is in the way", "choose another folder with -o"
        )
    return place


def _refuse_taken_over(shown: Path, place: Path) -> None:
    if place.suffix != ".py" or not place.exists():
        return
    if not place.is_file() or MARK not in place.read_text(encoding="utf-8", errors="replace"):
        raise InputError(
            f"{shown} has no {MARK} mark: it is yours now, and is not overwritten",
            "write elsewhere with -o, or delete the file to have it generated again",
        )


def _stage(place: Path, text: str) -> str:
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".attngen-", dir=place.parent)
    with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    Path(temporary).chmod(0o644)
    return temporary


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
