"""The only reader of the environment; decides whether the interpreter is used.

Ours: ATTNGEN_CACHE (the cache folder) and XDG_CACHE_HOME (its parent, if the first is unset);
ATTNGEN_BACKEND ("triton" or "cute": what is used where neither spec nor call names a backend).
TRITON_INTERPRET is Triton's own; it is set here when there is no GPU, and taken out of the
environment of compile workers, which must see the real compiler.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from attngen.core.resources import PACKAGE

INTERPRET = "TRITON_INTERPRET"


def cache_folder() -> Path:
    """`$ATTNGEN_CACHE`, else `$XDG_CACHE_HOME/attngen`, else `~/.cache/attngen`; absolute."""
    chosen = os.environ.get("ATTNGEN_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    parent = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG rules say a relative path is to be ignored
    base = Path(parent) if os.path.isabs(parent) else Path("~/.cache").expanduser()
    return base.absolute() / "attngen"


def preferred_backend() -> str:
    """`$ATTNGEN_BACKEND`, or "" for the best there is."""
    return os.environ.get("ATTNGEN_BACKEND", "")


def cute_installed() -> bool:
    """Whether the CuTe DSL can be imported (`pip install attngen[cute]`)."""
    return importlib.util.find_spec("cutlass") is not None


def gpu_present() -> bool:
    """Whether torch sees a CUDA or HIP device."""
    import torch  # noqa: PLC0415 - `import attngen` must not import torch

    return bool(torch.cuda.is_available())


def prepare_interpreter() -> bool:
    """Turn Triton's interpreter on if there is no GPU and Triton is not there yet; True if on.

    Triton decides when its modules are imported (its own library functions are decorated then), so
    a later change of the variable would leave half of it compiled.
    """
    if "triton" not in sys.modules and INTERPRET not in os.environ and not gpu_present():
        os.environ[INTERPRET] = "1"
    return interpreter_active()


def interpreter_active() -> bool:
    """Whether the imported Triton interprets kernels (imports it if it is not)."""
    from triton import language  # noqa: PLC0415 - see gpu_present
    from triton.runtime.jit import JITFunction  # noqa: PLC0415

    return not isinstance(language.zeros, JITFunction)


def worker_environment(cache: Path) -> dict[str, str]:
    """Environment of a compile worker: the real compiler, its report, a private Triton cache."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    environment |= {
        "TRITON_CACHE_DIR": str(cache),
        "TRITON_ALWAYS_COMPILE": "1",  # a damaged entry would be returned as it is
        "TRITON_DUMP_PTXAS_LOG": "1",  # registers and spills
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, sys.path)])
    return environment
