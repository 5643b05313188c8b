"""Reading what the user typed: spec files, `NAME=value` options, sizes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import click

from attngen.cli.mistake import InputError
from attngen.core.dtype import Dtype
from attngen.core.source import Source
from attngen.frontend import load
from attngen.ir.attention import Attention, Axis
from attngen.ir.recurrence import Recurrence

LARGEST_SPEC = 1 << 20  # bytes; a spec is a page of text
DEFAULT_FEATURE = 128
HALF_DTYPES = {"bf16": Dtype.BF16, "f16": Dtype.F16, "f32": Dtype.F32}

Value = int | float | bool


@dataclass(frozen=True)
class Spec:
    """A checked spec with everything the command line said about it.

    sizes: feature axes -> size; assumed: those of them nobody set; params: overridden parameters.
    """

    source: Source
    program: Attention | Recurrence
    sizes: dict[str, int]
    assumed: tuple[str, ...]
    params: dict[str, Value]

    def describe_sizes(self) -> str:
        """`D=128 (default), Dv=64`: what was set and what was assumed."""
        return ", ".join(
            f"{name}={size}" + (" (default)" if name in self.assumed else "")
            for name, size in self.sizes.items()
        )


def read_source(path: str) -> Source:
    """The text of a spec file (`-` is standard input); raises InputError."""
    if path == "-":
        return Source("<stdin>", sys.stdin.read())
    try:
        with Path(path).open("rb") as file:
            data = file.read(LARGEST_SPEC + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > LARGEST_SPEC:
        raise InputError(f"{path} is larger than {LARGEST_SPEC >> 20} MiB: not a spec")
    try:
        return Source(path, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None


def load_spec(path: str, settings: dict[str, Value] | None = None) -> Spec:
    """Reads and checks a spec; `settings` are `--set` values: parameters and feature axes."""
    source = read_source(path)
    settings = settings or {}
    program = load(source, {})
    params = {name: settings[name] for name, _ in program.params if name in settings}
    if params:
        program = load(source, params)
    axes = feature_axes(program)
    _refuse_unknown(path, settings, [*params, *axes], [name for name, _ in program.params])
    sizes = {name: whole(name, settings.get(name, DEFAULT_FEATURE)) for name in axes}
    assumed = tuple(name for name in axes if name not in settings)
    return Spec(source, program, sizes, assumed, params)


def feature_axes(program: Attention | Recurrence) -> list[str]:
    """Names of the feature axes without a size, in the order they are declared."""
    return list(dict.fromkeys(a.name for a in _axes(program) if _is_open(a, "feature")))


def dynamic_axes(program: Attention | Recurrence) -> list[str]:
    """Names of the batch, head and position axes, which are free at run time."""
    roles = ("batch", "head", "position")
    return list(dict.fromkeys(a.name for a in _axes(program) if any(_is_open(a, r) for r in roles)))


def with_sizes(spec: Spec, sizes: dict[str, int]) -> Spec:
    """The spec with some feature axes given by `--size`."""
    own = {name: size for name, size in sizes.items() if name in spec.sizes}
    assumed = tuple(name for name in spec.assumed if name not in own)
    return replace(spec, sizes={**spec.sizes, **own}, assumed=assumed)


def parse_settings(_: click.Context, __: click.Parameter, texts: Iterable[str]) -> dict[str, Value]:
    """Callback of `--set`: `NAME=value` pairs."""
    return {name: _number(name, text) for name, text in map(_pair, texts)}


def parse_sizes(_: click.Context, __: click.Parameter, texts: Iterable[str]) -> dict[str, int]:
    """Callback of `--size`: `AXIS=length` pairs, lengths from 0."""
    pairs = [_pair(part) for text in texts for part in text.split(",") if part]
    return {name: whole(name, _number(name, text)) for name, text in pairs}


def parse_schedule(
    _: click.Context, __: click.Parameter, text: str | None
) -> dict[str, str | int | bool]:
    """Callback of `--schedule`: `block_q=128,loads=pointer`."""
    options: dict[str, str | int | bool] = {}
    for name, value in (_pair(part) for part in (text or "").split(",") if part):
        options[name] = int(value) if value.isdecimal() else value
    return options


def whole(name: str, value: Value) -> int:
    """The value as a length; raises InputError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{name} is a length: expected a whole number, found {value}")
    return value


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name.strip()) or not value.strip():
        raise InputError(f"expected NAME=value, found {text!r}", "for example D=128")
    return name.strip(), value.strip()


def _number(name: str, text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name}: expected a number, true or false, found {text!r}") from None


def _axes(program: Attention | Recurrence) -> list[Axis]:
    return [axis for tensor in program.tensors for axis in tensor.axes]


def _is_open(axis: Axis, role: str) -> bool:
    return axis.role == role and axis.size is None and axis.name.isidentifier()


def _refuse_unknown(
    path: str, settings: dict[str, Value], known: list[str], params: list[str]
) -> None:
    unknown = [name for name in settings if name not in known]
    if unknown:
        names = ", ".join(dict.fromkeys([*params, *known])) or "none"
        raise InputError(
            f"{path} has no parameter or feature axis named {unknown[0]}",
            f"names that can be set: {names}",
        )
