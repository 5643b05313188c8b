"""From a plan to a function that can be called with tensors: compiled when it is first called.

A plan is compiled in parts, a kernel each, so that several processes can share the work
(`attngen.runtime.cute_objects` does that, and keeps the objects).
"""

from __future__ import annotations

import linecache
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attngen.cutelib.backward.plan import BackwardPlan
from attngen.cutelib.plan import Plan

_DTYPES = {"bf16": "BFloat16", "f16": "Float16", "f32": "Float32", "i32": "Int32", "i64": "Int64"}
_DTYPES |= {"bool": "Uint8", "i8": "Int8"}
_BYTES = {"bf16": 2, "f16": 2, "f32": 4, "i32": 4, "i64": 8, "bool": 1, "i8": 1}


class Forward:
    """A kernel of a generated file: called with the arguments of its plan, in order.

    `use` puts functions in place that were compiled before, one for each part of the plan.
    """

    def __init__(self, plan: Plan | BackwardPlan) -> None:
        self.plan = plan
        self._run: Callable[..., Any] | None = None
        self._lock = threading.Lock()

    def use(self, *runs: Callable[..., Any]) -> None:
        """Call these from now on, in order."""
        self._run = runs[0] if len(runs) == 1 else _all(runs)

    @property
    def ready(self) -> bool:
        """Whether a call has nothing to compile."""
        return self._run is not None

    def __call__(self, *arguments: Any) -> None:
        """Launch on the current stream."""
        run = self._run
        if run is None:
            with self._lock:
                if self._run is None:
                    self.use(*(compiled(part) for part in self.plan.parts))
                run = self._run
        assert run is not None
        run(*arguments)


def _all(runs: tuple[Callable[..., Any], ...]) -> Callable[..., None]:
    def run(*arguments: Any) -> None:
        for part in runs:
            part(*arguments)

    return run


def compiled(plan: Plan | BackwardPlan) -> Callable[..., Any]:
    """A part, compiled for this process; tensors are passed as they are (DLPack, TVM FFI)."""
    run: Callable[..., Any] = trace(plan, "--enable-tvm-ffi")
    return run


def object_of(run: Any, name: str) -> bytes:
    """What `compiled` gave, as an object file that holds it under this name."""
    with tempfile.TemporaryDirectory(prefix="attngen_") as folder:
        path = Path(folder) / f"{name}.o"
        run.export_to_c(str(path), function_name=name)
        return path.read_bytes()


def loaded(data: bytes, name: str) -> Callable[..., Any]:
    """The function of an object file."""
    from cutlass.cute.runtime import load_module  # noqa: PLC0415 - see the package's docstring

    with tempfile.TemporaryDirectory(prefix="attngen_") as folder:
        path = Path(folder) / f"{name}.o"
        path.write_bytes(data)
        run: Callable[..., Any] = load_module(str(path), enable_tvm_ffi=True)[name]
        return run


def trace(plan: Plan | BackwardPlan, options: str = "") -> Any:
    """cute.compile of a part of a plan over tensors of any size and strides."""
    from cutlass import cute  # noqa: PLC0415 - see the package's docstring

    # named: what the compiler finds by itself is the GPU of this machine, or one it was not told of
    arch = f"--gpu-arch {plan.arch}a"
    return cute.compile(host_function(plan), *_samples(plan), options=f"{options} {arch}".strip())


def host_function(plan: Plan | BackwardPlan) -> Callable[..., Any]:
    """A `cute.jit` function with one parameter per argument of the plan, and the stream.

    It is made from text, because the compiler reads names and types of parameters there.
    """
    import cuda.bindings.driver as cuda  # noqa: PLC0415
    import cutlass  # noqa: PLC0415

    types = {"i32": "cutlass.Int32", "f32": "cutlass.Float32"}
    parameters = [f"{n}: {types.get(kind, 'cute.Tensor')}" for n, kind in plan.arguments]
    pairs = ", ".join(f"{n}={n}" for n, _ in plan.arguments)
    text = (
        f"@cute.jit\ndef {plan.name}({', '.join(parameters)}, stream: cuda.CUstream):\n"
        f"    launch(dict({pairs}), stream)\n"
    )
    name = f"<{plan.name}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    scope = {"cutlass": cutlass, "cute": cutlass.cute, "cuda": cuda, "launch": _launcher(plan)}
    exec(compile(text, name, "exec", dont_inherit=True), scope)
    made: Callable[..., Any] = scope[plan.name]
    return made


def _launcher(plan: Plan | BackwardPlan) -> Callable[..., None]:
    if isinstance(plan, BackwardPlan):
        from attngen.cutelib.backward.kernel import Launch  # noqa: PLC0415

        return Launch(plan)
    if plan.schedule.arch == "sm_100":
        from attngen.cutelib.blackwell import Launch as BlackwellLaunch  # noqa: PLC0415

        return BlackwellLaunch(plan)
    from attngen.cutelib.forward import Launch as ForwardLaunch  # noqa: PLC0415

    return ForwardLaunch(plan)


def _samples(plan: Plan | BackwardPlan) -> list[Any]:
    """Arguments without contents: any size, any stride but the last, rows in units of 16 bytes."""
    import cutlass  # noqa: PLC0415
    from cutlass import cute  # noqa: PLC0415
    from cutlass.cute.runtime import make_fake_stream, make_fake_tensor  # noqa: PLC0415

    samples: list[Any] = []
    for argument, kind in plan.arguments:
        if kind in ("i32", "f32"):
            samples.append(cutlass.Int32(1) if kind == "i32" else cutlass.Float32(1.0))
            continue
        name, rank, width = kind.split()
        size = _BYTES[name]
        aligned = argument in plan.aligned
        units = 16 // size if aligned else 1
        shape: list[Any] = [cute.sym_int() for _ in range(int(rank))]
        if int(width):
            shape[-1] = int(width)
        stride = [cute.sym_int64(divisibility=units) for _ in range(int(rank) - 1)]
        samples.append(
            make_fake_tensor(
                getattr(cutlass, _DTYPES[name]),
                tuple(shape),
                stride=(*stride, 1),
                assumed_align=16 if aligned else size,
            )
        )
    samples.append(make_fake_stream(use_tvm_ffi_env_stream=True))
    return samples
