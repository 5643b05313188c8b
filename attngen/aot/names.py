"""Names and versions of a package, checked before anything is built."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterable

from attngen.core.diagnostics import Diagnostic, SpecError

LONGEST = 63
_NAME = re.compile(r"[a-z]([a-z0-9]|[-_](?=[a-z0-9]))*")
# the public part of PEP 440, in its normal form
_VERSION = re.compile(
    r"([1-9]\d*!)?(0|[1-9]\d*)(\.(0|[1-9]\d*))*((a|b|rc)(0|[1-9]\d*))?"
    r"(\.post(0|[1-9]\d*))?(\.dev(0|[1-9]\d*))?(\+[a-z0-9]+(\.[a-z0-9]+)*)?"
)
# of the file systems of some systems, and what the package itself defines
_DEVICES = {"con", "prn", "aux", "nul", "clock"} | {
    f"{d}{i}" for d in ("com", "lpt") for i in "123"
}
_OWN = {"preload", "torch", "errors", "selfcheck", "self"}


def module_name(name: str) -> str:
    """`acme-kernels` -> `acme_kernels`; SpecError E320: no name for a package."""
    module = name.replace("-", "_")
    problem = ""
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        problem = "a name is lower-case letters, digits and single dashes, beginning with a letter"
    elif keyword.iskeyword(module) or module in _DEVICES or module in sys.stdlib_module_names:
        problem = "that is a word of Python or of an operating system"
    elif module in ("torch", "triton", "attngen", "numpy"):
        problem = "that is the name of another package"
    if problem:
        message = f"{name[:80]!r} cannot be the name of a package: {problem}"
        raise SpecError(Diagnostic("E320", message, help="--name acme-kernels"))
    return module


def require_version(version: str) -> str:
    """The version; SpecError E321 unless it is one of PEP 440 in its normal form."""
    if len(version) <= LONGEST and _VERSION.fullmatch(version):
        return version
    message = f"{version[:80]!r} is not a version of a Python package (PEP 440)"
    raise SpecError(Diagnostic("E321", message, help="--version 1.2.0"))


def require_functions(names: Iterable[str]) -> None:
    """SpecError E322: two specs of one name, or one that the package itself needs."""
    seen: set[str] = set()
    for name in names:
        problem = ""
        if name in seen:
            problem = f"two specs are named {name}"
        elif name in _OWN or keyword.iskeyword(name) or name.startswith("_"):
            problem = f"{name} cannot be the name of a function of a package"
        elif any(f"{name}{suffix}" in seen for suffix in ("_training", "_backward")) or any(
            name == f"{other}{suffix}" for other in seen for suffix in ("_training", "_backward")
        ):
            problem = f"{name} is the name of an operator of another spec"
        if problem:
            raise SpecError(Diagnostic("E322", problem, help="rename the spec"))
        seen.add(name)
