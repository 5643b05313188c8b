"""Repeated calls of one signature: launches go to the compiled kernel, past Triton's look-up.

A launch through `@triton.jit` looks at every argument to find the kernel compiled for arguments of
that kind. All that it looks at is in a plan's signature (shapes, strides, dtypes, the device,
addresses modulo 16 bytes), so a plan looks once. It holds its own copies of the generated host
function, in which the names of the kernels mean `Launcher`s and `TensorDescriptor` makes
descriptors without checking again what the first call has checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

from attngen.core.dtype import Dtype
from attngen.core.target import Target
from attngen.ir.attention import Tensor
from attngen.runtime.remember import Memory

Entry = Callable[..., tuple[Any, ...]]


def fixed_by_signature(target: Target, declared: Sequence[Tensor]) -> bool:
    """Whether a plan's signature fixes which compiled kernel Triton chooses.

    Not with 64-bit scalars, which are passed in 32 bits while they fit; not in the interpreter; not
    on AMD, where Triton also looks at the size of the storage behind a tensor.
    """
    return target.family == "cuda" and not any(
        t.is_scalar and t.dtype is Dtype.I64 for t in declared
    )


def direct(entry: Entry, memory: Memory) -> tuple[Entry, Entry]:
    """Copies of a host function for the first and for later calls of one signature.

    The first makes `TensorDescriptor`s as the file does, with their checks.
    """
    if not isinstance(entry, FunctionType):
        return entry, entry
    from triton.runtime.jit import JITFunction  # noqa: PLC0415 - `import attngen` stays light

    used = {n: entry.__globals__.get(n) for n in entry.__code__.co_names}
    launchers: dict[str, Any] = {
        n: Launcher(value, memory) for n, value in used.items() if isinstance(value, JITFunction)
    }
    if not launchers:
        return entry, entry
    kind = used.get("TensorDescriptor")
    descriptors = {"TensorDescriptor": Descriptors(kind)} if kind is not None else {}
    return _copy(entry, launchers), _copy(entry, launchers | descriptors)


def _copy(entry: FunctionType, names: dict[str, Any]) -> Entry:
    return FunctionType(entry.__code__, entry.__globals__ | names, entry.__name__)


class Launcher:
    """Stands for one `@triton.jit` function: `launcher[grid](*arguments, **options)`.

    The first launch of a grid finds the compiled kernel, remembered or through Triton; the later
    ones go to that kernel, on the current stream and with Triton's launch hooks. Threads may share
    it: at worst several of them make the first launch.
    """

    __slots__ = ("function", "memory", "ready")

    def __init__(self, function: Any, memory: Memory) -> None:
        self.function, self.memory = function, memory
        self.ready: dict[tuple[int, ...], Callable[..., object]] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        return self.ready.get(grid) or self._first(grid)

    def _first(self, grid: tuple[int, ...]) -> Callable[..., object]:
        def launch(*arguments: Any, **options: Any) -> None:
            # constants passed by name would have to be put in their places: Triton does that
            complete = len(arguments) == len(self.function.params)
            known = self.memory.find(self.function, arguments, options) if complete else None
            if known is not None:
                self._ready(grid, known)(*arguments)
                return
            compiled = self.function[grid](*arguments, **options)
            if compiled is not None and complete:
                self._ready(grid, compiled)
                self.memory.keep(self.function, arguments, options, compiled)

        return launch

    def _ready(self, grid: tuple[int, ...], compiled: Any) -> Callable[..., object]:
        launch = self.ready[grid] = _launch(compiled[(*grid, 1, 1)[:3]])
        return launch


def _launch(run: Callable[..., object]) -> Callable[..., object]:
    """A launch that drops num_warps and the like: they are compiled in."""

    def launch(*arguments: Any, **options: Any) -> None:
        run(*arguments)

    return launch


class Descriptors:
    """Stands for `TensorDescriptor`: makes the same objects, without `__post_init__`'s checks."""

    __slots__ = ("kind",)

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def __call__(
        self, base: Any, shape: Sequence[int], strides: Sequence[int], block_shape: Sequence[int]
    ) -> Any:
        """A descriptor over part of a tensor."""
        made = self.kind.__new__(self.kind)
        made.base, made.shape, made.strides, made.block_shape = base, shape, strides, block_shape
        return made

    def from_tensor(self, tensor: Any, block_shape: Sequence[int]) -> Any:
        """A descriptor over a whole tensor."""
        return self(tensor, tensor.shape, tensor.stride(), block_shape)
