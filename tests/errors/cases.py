"""Runs one bad spec and renders what the compiler says.

Two directives may stand in the first line, for what a short file cannot hold: `# set: NAME=value`
overrides a param, `# grow: N` adds N spaces at the end.
"""

from __future__ import annotations

import ast
from pathlib import Path

from attngen.core.diagnostics import SpecError
from attngen.core.source import Source
from attngen.frontend import load

FOLDER = Path(__file__).parent


def cases() -> list[Path]:
    return sorted(FOLDER.glob("*.attn"))


def message(path: Path) -> str:
    text = path.read_bytes().decode()
    first = text.partition("\n")[0]
    params = {}
    if first.startswith("# set: "):
        name, value = first.removeprefix("# set: ").split("=")
        params[name] = ast.literal_eval(value)
    if first.startswith("# grow: "):
        text += " " * int(first.removeprefix("# grow: "))
    try:
        load(Source(path.name, text), params)
    except SpecError as error:
        return error.render() + "\n"
    return "no error\n"
