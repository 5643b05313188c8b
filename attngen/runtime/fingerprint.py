"""Cache keys: sha256 over typed, length-prefixed fields, and the fingerprint of the toolchain."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from attngen.core.resources import PACKAGE, resource

Field: TypeAlias = "bool | int | float | str | bytes | Sequence[Field] | Mapping[str, Field] | None"


def digest(kind: str, **fields: Field) -> str:
    """Key of an entry: 64 hex digits. Different fields give different bytes to hash, always."""
    return hashlib.sha256(encode([kind, fields])).hexdigest()


def encode(value: Field) -> bytes:
    """An injective encoding: one type letter, the length of the body in eight bytes, the body."""
    tag, body = _body(value)
    return tag + struct.pack("<Q", len(body)) + body


def _body(value: Field) -> tuple[bytes, bytes]:
    match value:
        case None:
            return b"N", b""
        case bool():
            return b"B", bytes([value])
        case int():
            return b"I", str(value).encode()
        case float():
            return b"F", struct.pack("<d", value)
        case str():
            return b"S", value.encode("utf-8", "surrogatepass")
        case bytes():
            return b"Y", value
        case Mapping():
            pairs = sorted(value.items())
            return b"M", b"".join(encode(k) + encode(v) for k, v in pairs)
        case _:
            return b"L", b"".join(encode(v) for v in value)


@functools.cache
def generator() -> str:
    """Hash of attngen's own code and templates: what was emitted by other code is not reused."""
    hasher = hashlib.sha256()
    roots = (PACKAGE, resource("templates"), resource("grammar"))
    for root in roots:
        for path in sorted(p for s in ("*.py", "*.j2", "*.lark", "*.jinja") for p in root.rglob(s)):
            hasher.update(encode(path.relative_to(root).as_posix()))
            hasher.update(encode(path.read_bytes()))
    return hasher.hexdigest()


@functools.cache
def library() -> str:
    """Hash of what CuTe kernels are built from besides their file."""
    hasher = hashlib.sha256()
    for path in sorted((PACKAGE / "cutelib").rglob("*.py")):
        hasher.update(encode(path.relative_to(PACKAGE).as_posix()))
        hasher.update(encode(path.read_bytes()))
    return hasher.hexdigest()


@functools.cache
def toolchain(backend: str = "triton") -> dict[str, Field]:
    """Versions a compiled binary depends on."""
    compiler = {"triton": "triton", "cute": "nvidia-cutlass-dsl"}[backend]
    return {
        compiler: importlib.metadata.version(compiler),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
