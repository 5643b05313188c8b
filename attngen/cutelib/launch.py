"""From a plan to a function that can be called with tensors: compiled when it is first called."""

from __future__ import annotations

import linecache
import threading
from collections.abc import Callable
from typing import Any

from attngen.cutelib.backward.plan import BackwardPlan
from attngen.cutelib.plan import Plan

_DTYPES = {"bf16": "BFloat16", "f16": "Float16", "f32": "Float32", "i32": "Int32", "i64": "Int64"}
_DTYPES |= {"bool": "Uint8", "i8": "Int8"}
_BYTES = {"bf16": 2, "f16": 2, "f32": 4, "i32": 4, "i64": 8, "bool": 1, "i8": 1}


class Forward:
    """A kernel of a generated file: called with the arguments of its plan, in order.

    `use` puts a function in place that was compiled before (an object read from disk).
    """

    def __init__(self, plan: Plan | BackwardPlan) -> None:
        self.plan = plan
        self._run: Callable[..., Any] | None = None
        self._lock = threading.Lock()

    def use(self, run: Callable[..., Any]) -> None:
        """Call `run` from now on."""
        self._run = run

    def __call__(self, *arguments: Any) -> None:
        """Launch on the current stream."""
        run = self._run
        if run is None:
            with self._lock:
                run = self._run = self._run or compiled(self.plan)
        run(*arguments)


def compiled(plan: Plan | BackwardPlan) -> Callable[..., Any]:
    """The kernel compiled for this process; tensors are passed as they are (DLPack, TVM FFI)."""
    run: Callable[..., Any] = trace(plan, "--enable-tvm-ffi")
    return run


def trace(plan: Plan | BackwardPlan, options: str = "") -> Any:
    """cute.compile of the plan over tensors of any size and strides."""
    from cutlass import cute  # noqa: PLC0415 - see the package's docstring

    return cute.compile(host_function(plan), *_samples(plan), options=options)


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
