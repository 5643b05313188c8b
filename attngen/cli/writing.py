"""Puts generated kernels into a folder: all of them or none, never over a file a user took over.

Layout: `<folder>/<spec>/<target>/<spec>.py` with `MANIFEST.json` beside it; kernels of the cute
backend are under `<target>_cute`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attngen import __version__
from attngen.cli.mistake import InputError

if TYPE_CHECKING:
    from attngen.cli.building import Built

MARK = "[attngen:generated]"
SCHEMA = 1


def kernel_path(built: Built) -> str:
    """Where the kernel goes, relative to the output folder."""
    variant = "_decode" if built.made.request.short else ""
    folder = built.target.name
    if built.made.emitted.backend != "triton":
        folder += f"_{built.made.emitted.backend}"
    return f"{built.name}/{folder}/{built.name}{variant}.py"


def files_of(kernels: Sequence[Built]) -> dict[str, str]:
    """Relative path -> text of the kernels and of one manifest per folder.

    Raises InputError when two kernels would be one file.
    """
    files: dict[str, str] = {}
    folders: dict[str, dict[str, object]] = {}
    for built in kernels:
        path = kernel_path(built)
        if path in files:
            raise InputError(f"two specs are named {built.name}", "rename one, or compile apart")
        files[path] = built.made.emitted.source
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name] = describe(built)
    for folder, described in folders.items():
        manifest = {"schema": SCHEMA, "attngen": __version__, "files": described}
        text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        files[f"{folder}/MANIFEST.json"] = text
    return files


def describe(built: Built) -> dict[str, object]:
    """What a kernel file was made from, and the hash that tells whether it was edited."""
    made, emitted = built.made, built.made.emitted
    return {
        "spec": built.name,
        "spec_sha256": _sha256(made.spec.source.text),
        "target": built.target.name,
        "half": built.dtype,
        "sizes": dict(made.request.sizes),
        "params": dict(made.spec.attention.params),
        "schedule": made.schedule.describe(),
        "entry": emitted.entry,
        "arguments": list(emitted.arguments),
        "outputs": list(emitted.outputs),
        "kernels": [kernel.name for kernel in emitted.kernels],
        "sha256": _sha256(emitted.source),
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
