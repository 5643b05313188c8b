"""Kernels as shared objects: compiled here, loaded by `ctypes` where there is no compiler.

An object needs the C library and the CUDA driver alone: the compiler's small launch runtime and
the CUDA runtime are linked in. It is called with the tensors' addresses, sizes and strides.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attngen.cutelib.launch import trace
from attngen.cutelib.plan import Plan

_GLUE = """#include "{name}.h"
static {name}_Kernel_Module_t {name}_module;
static int {name}_loaded;
int {name}_call(void** t, void* stream) {{
  int count = 0;
  if (!{name}_loaded) {{  /* without a driver the generated loader would never end */
    if (cudaGetDeviceCount(&count) != cudaSuccess || count < 1) return -1;
    {name}_Kernel_Module_Load(&{name}_module);
    {name}_loaded = 1;
  }}
  return cute_dsl_{name}_wrapper(&{name}_module, {arguments}, (cudaStream_t)stream);
}}
"""


def build(plans: Mapping[str, Plan], path: Path, cuda: str | None = None) -> Path:
    """Compile the plans, all their parts, and link them into one shared object.

    cuda: folder of a CUDA toolkit (default: CUDA_HOME); OSError if there is none.
    """
    import nvidia_cutlass_dsl  # noqa: PLC0415 - see the package's docstring

    home = Path(cuda or os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    if not (home / "include" / "cuda_runtime.h").is_file():
        raise OSError(f"no CUDA toolkit at {home}: set CUDA_HOME")
    runtime = Path(next(iter(nvidia_cutlass_dsl.__path__))) / "cu13" / "lib"
    with tempfile.TemporaryDirectory() as folder:
        parts = [(_names(n, p)[i], x) for n, p in plans.items() for i, x in enumerate(p.parts)]
        objects = [x for n, part in parts for x in _object(n, part, Path(folder), home)]
        static = next(x for x in ("lib64", "lib") if (home / x / "libcudart_static.a").is_file())
        libraries = [
            runtime / "libcuda_dialect_runtime_static.a",
            home / static / "libcudart_static.a",
        ]
        _run(
            "gcc",
            "-shared",
            "-o",
            path,
            *objects,
            *libraries,
            "-lpthread",
            "-ldl",
            "-lrt",
            "-Wl,--exclude-libs,ALL",
            "-s",
        )
    return path


def _object(name: str, plan: Plan, folder: Path, home: Path) -> list[Path]:
    trace(plan).export_to_c(file_path=str(folder), file_name=name, function_prefix=name)
    header = (folder / f"{name}.h").read_text()
    found = re.search(rf"cute_dsl_{name}_wrapper\((.*?)\) {{", header)
    if found is None:
        raise OSError("the compiler's header has another form than expected")
    arguments = []
    for i, parameter in enumerate(found[1].split(", ")[1:-1]):
        kind = parameter.rpartition(" ")[0].strip()
        pointer = parameter.rpartition(" ")[2].startswith("*")
        arguments.append(f"({kind}*)t[{i}]" if pointer else f"*({kind}*)t[{i}]")
    glue = folder / f"{name}_glue.c"
    glue.write_text(_GLUE.format(name=name, arguments=", ".join(arguments)))
    _run(
        "gcc",
        "-O1",
        "-w",
        "-fPIC",
        "-c",
        "-o",
        glue.with_suffix(".o"),
        glue,
        f"-I{folder}",
        f"-I{home / 'include'}",
    )
    return [folder / f"{name}.o", glue.with_suffix(".o")]


def _run(*command: Any) -> None:
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{command[0]} failed: {done.stderr[-500:]}")


def _names(name: str, plan: Plan) -> list[str]:
    """Names of the parts of a plan in an object."""
    return [name, *(f"{name}_{i}" for i in range(1, len(plan.parts)))]


def load(path: Path, name: str, plan: Plan) -> tuple[Callable[..., None], ...]:
    """The parts of a plan as functions of its arguments, for `Forward.use`."""
    library = ctypes.CDLL(str(path))
    return tuple(_function(library, n, plan) for n in _names(name, plan))


def _function(library: ctypes.CDLL, name: str, plan: Plan) -> Callable[..., None]:
    function = getattr(library, f"{name}_call")
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p], ctypes.c_int
    packers = [_packer(kind) for _, kind in plan.arguments]

    def run(*arguments: Any) -> None:
        import torch  # noqa: PLC0415 - of the caller

        packed = [pack(x) for pack, x in zip(packers, arguments, strict=True)]
        table = (ctypes.c_void_p * len(packed))(*[ctypes.addressof(x) for x in packed])
        stream = torch.cuda.current_stream().cuda_stream
        code = function(ctypes.addressof(table), stream)
        if code:
            raise RuntimeError(f"{plan.name}: launch failed with CUDA error {code}")

    return run


def _packer(kind: str) -> Callable[[Any], Any]:
    """How an argument becomes memory: what is known when compiling is left out."""
    if kind in ("i32", "f32"):
        return ctypes.c_int32 if kind == "i32" else ctypes.c_float
    _, rank, width = kind.split()
    sizes, strides = int(rank) - (int(width) > 0), int(rank) - 1
    fields: list[Any] = [("data", ctypes.c_void_p), ("shape", ctypes.c_int32 * sizes)]
    fields += [("stride", ctypes.c_int64 * strides)] if strides else []
    struct = type("Tensor", (ctypes.Structure,), {"_fields_": fields})

    def pack(x: Any) -> Any:
        made = struct()
        made.data = x.data_ptr()
        made.shape[:] = x.shape[:sizes]
        if strides:
            made.stride[:] = x.stride()[:strides]
        return made

    return pack
