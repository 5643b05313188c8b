"""What `attngen package` reads and writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attngen.cli.building import runtime_spec
from attngen.cli.input import Value, feature_axes, load_spec, parse_settings, read_source, whole
from attngen.cli.mistake import InputError
from attngen.frontend import load

if TYPE_CHECKING:
    from attngen.aot.build import Built
    from attngen.runtime.specialise import Spec as RuntimeSpec

Settings = dict[str, list[Value]]
Sizes = Mapping[str, Sequence[int]]


def parse_names(_: click.Context, __: click.Parameter, text: str) -> list[str]:
    """Callback of `--targets`, `--dtypes`: names between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_lists(
    context: click.Context, parameter: click.Parameter, texts: Iterable[str]
) -> Settings:
    """Callback of `--set`: `NAME=value,value`; a name may come again."""
    out: Settings = {}
    for text in texts:
        name, _, values = text.partition("=")
        pairs = [f"{name}={part}" for part in values.split(",")]
        for pair in pairs:
            for own, value in parse_settings(context, parameter, [pair]).items():
                if value not in out.setdefault(own, []):
                    out[own].append(value)
    return out


def load_all(paths: Sequence[str], settings: Settings) -> tuple[list[RuntimeSpec], list[Sizes]]:
    """Specs as the runtime takes them, and the sizes of their feature axes; InputError."""
    specs, sizes, used = [], list[Sizes](), set[str]()
    for path in paths:
        program = load(read_source(path), {})
        params, axes = [name for name, _ in program.params], feature_axes(program)
        several = [name for name in params if len(settings.get(name, [])) > 1]
        if several:
            raise InputError(f"{several[0]} is a parameter: it has one value", "package it twice")
        own = {n: settings[n][0] for n in (*params, *axes) if n in settings}
        used |= set(own)
        spec = load_spec(path, own)
        specs.append(runtime_spec(spec))
        sizes.append(
            {n: [whole(n, v) for v in settings.get(n, [spec.sizes[n]])] for n in spec.sizes}
        )
    unused = [name for name in settings if name not in used]
    if unused:
        raise InputError(f"no spec has a parameter or feature axis named {unused[0]}")
    return specs, sizes


def choices(backends: Iterable[tuple[str, str, str, str, str]]) -> list[list[str]]:
    """Rows that say which backend made what, and why; (spec, target, form, backend, why) of each.

    What was asked for goes without saying.
    """
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for spec, target, form, backend, why in backends:
        if why not in ("", "asked for"):
            found.setdefault((target, backend, form, why), []).append(spec)
    return [
        [target, backend, f"{form} of {', '.join(specs)}: {why}"]
        for (target, backend, form, why), specs in found.items()
    ]


def write_formats(
    built: Built, name: str, formats: Sequence[str], output: str
) -> list[tuple[str, int]]:
    """Write each form of the package once; (path, bytes) of each. InputError."""
    from attngen.aot.cpp import bundle
    from attngen.aot.hub import hub
    from attngen.aot.wheel import wheel

    folder, made = Path(output), dict[str, dict[str, bytes]]()
    module = built.manifest["package"]
    for form in dict.fromkeys(formats):
        if form == "wheel":
            file, data = wheel(built, name)
            made[file] = {file: data}
        elif form == "cpp":
            made[f"{module}-cpp"] = _under(f"{module}-cpp", bundle(built))
        else:
            made[f"{module}-hf"] = _under(f"{module}-hf", hub(built, name))
    _refuse_links(folder)
    for files in made.values():
        for path, data in files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
    return [(f"{output}/{path}", sum(map(len, files.values()))) for path, files in made.items()]


def _under(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{path}": data for path, data in files.items()}


def _refuse_links(folder: Path) -> None:
    if folder.is_symlink():
        raise InputError(f"{folder} is a link", "-o dist")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is not a folder", "-o dist")
