"""Turns a generated source file into a module, after checking that it holds nothing but a kernel.

The text is checked as a tree against lists of what may appear; the checked text itself is run, not
whatever a file of that name holds by then. The copy in the cache folder is for people to read.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import hashlib
import importlib.util
import linecache
import os
import secrets
import sys
from importlib.abc import InspectLoader
from pathlib import Path
from types import CodeType, ModuleType

from attngen.backend.emitted import Emitted
from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.runtime.settings import cache_folder

_MODULES = """
torch triton triton.language triton.language.extra triton.language.extra.libdevice
triton.tools.tensor_descriptor attngen.cutelib attngen.cutelib.launch attngen.cutelib.plan
attngen.cutelib.backward.plan
"""
_BUILTINS = """
range min max len abs int float bool tuple list isinstance sum enumerate zip divmod round
dict AssertionError ValueError TypeError RuntimeError True False None
"""
_TORCH = """
arange where empty empty_like searchsorted empty_strided zeros zeros_like full Tensor tensor dtype
device cuda
float16 bfloat16 float32 float64 int8 int32 int64 uint8 bool float8_e4m3fn float8_e5m2 version
"""
_TRITON = "jit cdiv next_power_of_2 language set_allocator tools runtime"
MODULES, BUILTINS = frozenset(_MODULES.split()), frozenset(_BUILTINS.split())
TORCH, TRITON = frozenset(_TORCH.split()), frozenset(_TRITON.split())
REFUSED = (
    ast.AsyncFunctionDef,
    ast.Await,
    ast.Yield,
    ast.YieldFrom,
    ast.Global,
    ast.Nonlocal,
    ast.ClassDef,
    ast.Delete,
    ast.Try,
    ast.TryStar,
    ast.NamedExpr,
    ast.Match,
)
TOP_LEVEL = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Assign, ast.AnnAssign, ast.Expr)


def check_source(text: str) -> ast.Module:
    """The tree of a generated file; SpecError E390 naming the line if it holds anything else."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise _refusal(f"it does not parse ({error})", 0) from error
    for statement in tree.body:
        if not isinstance(statement, TOP_LEVEL):
            raise _refusal("only imports, functions and constants may stand here", statement.lineno)
    for node in ast.walk(tree):
        if problem := _problem(node):
            raise _refusal(problem, getattr(node, "lineno", 0))
    return tree


def load_module(emitted: Emitted) -> ModuleType:
    """The module of a generated file; the same text gives the same module."""
    return _load(emitted.source)


@functools.lru_cache(maxsize=256)
def _load(source: str) -> ModuleType:
    check_source(source)
    name = "attngen_kernel_" + hashlib.sha256(source.encode()).hexdigest()[:24]
    path = source_path(name, source)
    loader = _Checked(source, path)
    spec = importlib.util.spec_from_loader(name, loader, origin=path)
    if spec is None:  # not reachable: a loader was given
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    module.__file__ = path
    # Triton reads a kernel's text through `inspect`: without a time stamp the file is not read
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def source_path(name: str, source: str) -> str:
    """Where the text lies in the cache folder; a name in angle brackets if it cannot be written."""
    path = cache_folder() / "sources" / f"{name}.py"
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_file() or path.read_text() != source:
            _write(path, source)
        return str(path)
    return f"<{name}>"


def _write(path: Path, source: str) -> None:
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    for folder in (path.parent.parent, path.parent):
        folder.mkdir(mode=0o700, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    temporary.write_text(source)
    temporary.replace(path)


class _Checked(InspectLoader):
    """Loads a module from the text that was checked."""

    def __init__(self, source: str, path: str) -> None:
        self.source, self.path = source, path

    def get_source(self, fullname: str) -> str:
        return self.source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec", dont_inherit=True)


def _problem(node: ast.AST) -> str | None:
    match node:
        case ast.Import(names=names):
            return _import([alias.name for alias in names])
        case ast.ImportFrom(module=module, level=level, names=names):
            if module == "__future__" and level == 0:
                return None
            hidden = any(alias.name.startswith("_") or alias.name == "*" for alias in names)
            return "a hidden name is imported" if hidden or level else _import([module or ""])
        case ast.Attribute(attr=attribute, value=value):
            return _attribute(value, attribute)
        case ast.Name(id=name):
            forbidden = hasattr(builtins, name) and name not in BUILTINS
            return f"{name} may not be used" if forbidden or name.startswith("__") else None
        case ast.FunctionDef(name=name) if name.startswith("__"):
            return f"{name} may not be defined"
        case ast.keyword(arg=None) | ast.Starred():
            return None
        case _:
            refused = isinstance(node, REFUSED)
            return f"{type(node).__name__} may not appear" if refused else None


def _import(modules: list[str]) -> str | None:
    other = [m for m in modules if m not in MODULES]
    return f"{other[0]} may not be imported" if other else None


def _attribute(value: ast.expr, attribute: str) -> str | None:
    if attribute.startswith("_"):
        return f"hidden attribute {attribute}"
    owner = value.id if isinstance(value, ast.Name) else ""
    allowed = {"torch": TORCH, "triton": TRITON}.get(owner)
    if allowed is not None and attribute not in allowed:
        return f"{owner}.{attribute} may not be used"
    return None


def _refusal(problem: str, line: int) -> SpecError:
    message = f"the generated source was refused at line {line}: {problem}"
    return SpecError(Diagnostic("E390", message, help="report this: attngen must not print it"))
