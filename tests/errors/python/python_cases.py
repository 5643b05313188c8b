"""Runs one bad Python file and renders what attngen says.

A file binds `spec`, a function with `@attention`, `score_mod` or `mask_mod` of a call, or `call`, a
function that makes the mistake.
"""

from __future__ import annotations

import linecache
from pathlib import Path

import torch

import attngen
from attngen import attention, flex_attention
from attngen.core.diagnostics import AttngenError

FOLDER = Path(__file__).parent


def cases() -> list[Path]:
    return sorted(FOLDER.glob("E*.py"))


def message(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    linecache.cache[path.name] = (len(text), None, text.splitlines(keepends=True), path.name)
    names = {"attention": attention, "attngen": attngen, "torch": torch, "__name__": "case"}
    try:
        exec(compile(text, path.name, "exec"), names)
        if "spec" in names:
            names["spec"].kernel()
        elif "call" in names:
            names["call"]()
        else:
            x = torch.zeros(1, 2, 8, 16)
            mods = {n: names[n] for n in ("score_mod", "mask_mod") if n in names}
            flex_attention(x, x, x, **mods)
    except AttngenError as error:
        return error.render() + "\n"
    return "no error\n"


def main() -> None:
    for path in cases():
        path.with_suffix(".stderr").write_text(message(path), encoding="utf-8")


if __name__ == "__main__":
    main()
