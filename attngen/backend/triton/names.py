"""Identifiers of a generated file: the user's words where safe, never text of the spec."""

from __future__ import annotations

import keyword
import re

from attngen.passes.rename import RESERVED

_SAFE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


class Names:
    """Hands out distinct identifiers, as close to the wish as possible."""

    def __init__(self, taken: frozenset[str] = frozenset()) -> None:
        self._used = set(RESERVED | taken)

    def take(self, wish: str) -> str:
        """An identifier not handed out before: the wish, maybe numbered, or `v0`, `v1`, ..."""
        base = wish if _SAFE.fullmatch(wish) and not keyword.iskeyword(wish) else "v"
        name, count = base, 0
        while name in self._used or keyword.iskeyword(name):
            name, count = f"{base}{count}" if base == "v" else f"{base}_{count + 1}", count + 1
        self._used.add(name)
        return name
