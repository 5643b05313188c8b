"""The only reader of the environment; decides whether the interpreter is used.

Ours: ATTNGEN_CACHE (the cache folder) and XDG_CACHE_HOME (its parent, if the first is unset);
ATTNGEN_BACKEND ("triton" or "cute": what is used where neither spec nor call names a backend).
TRITON_INTERPRET is Triton's own; it is set here when there is no GPU, and taken out of the
environment of compile workers, which must see the real compiler.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
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
    """Whether the CuTe DSL can be imported (`pip install attngen[cute]`).

    A folder of that name without code, as part of an installation leaves it, is not the DSL.
    """
    found = importlib.util.find_spec("cutlass")
    return found is not None and found.origin is not None


def gpu_present() -> bool:
    """Whether torch sees a CUDA or HIP device."""
    import torch  # noqa: PLC0415 - `import attngen` must not import torch

    return bool(torch.cuda.is_available())


def prepare_interpreter() -> bool:
    """Turn Triton's interpreter on if there is no GPU and Triton is not there yet; True if on.

    Triton decides when its modules are imported (its own library functions are decorated then), so
    a later change of the variable would leave half of it compiled.
    """
    expect_interpreter()
    return interpreter_active()


def expect_interpreter() -> None:
    """The same before anything needs it: an optimizer of torch may import Triton in between."""
    if "triton" not in sys.modules and INTERPRET not in os.environ and not gpu_present():
        os.environ[INTERPRET] = "1"


def interpreter_active() -> bool:
    """Whether Triton interprets kernels; before its import is done, the environment says so."""
    spec = getattr(sys.modules.get("triton"), "__spec__", None)
    ready = spec is not None and not getattr(spec, "_initializing", False)
    if not ready and INTERPRET not in os.environ:
        return False
    from triton import language  # noqa: PLC0415 - see gpu_present
    from triton.runtime.jit import JITFunction  # noqa: PLC0415

    return not isinstance(language.zeros, JITFunction)


def worker_environment(cache: Path, steady: bool = False) -> dict[str, str]:
    """Environment of a compile worker: the real compiler, its report, a private Triton cache.

    steady: the same source gives the same bytes, whatever the folder and the time (steady.py).
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    environment |= {
        "TRITON_CACHE_DIR": str(cache),
        "TRITON_ALWAYS_COMPILE": "1",  # a damaged entry would be returned as it is
        "TRITON_DUMP_PTXAS_LOG": "1",  # registers and spills
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if steady:
        environment |= {"TRITON_DISABLE_LINE_INFO": "1"}  # paths, time stamps
        environment |= _steady_tools(cache)
        environment.pop("ATTNGEN_FAMILY", None)
    environment["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, sys.path)])
    return environment


def _steady_tools(folder: Path) -> dict[str, str]:
    """Scripts in the folder that run Triton's ptxas steadily, as Triton wants to be told."""
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return {}
    tools = Path(spec.origin).parent / "backends" / "nvidia" / "bin"
    names = {"TRITON_PTXAS_PATH": "ptxas", "TRITON_PTXAS_BLACKWELL_PATH": "ptxas-blackwell"}
    found = {}
    for variable, name in names.items():
        tool, script = tools / name, folder / name
        if tool.exists():
            words = (sys.executable, "-IS", PACKAGE / "runtime" / "steady.py", tool)
            command = " ".join(shlex.quote(str(word)) for word in words)
            script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            script.chmod(0o700)
            found[variable] = str(script)
    return found
