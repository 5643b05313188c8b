"""`@attention`: a Python function whose body is a spec, as a kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Any, overload

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.target import find_target
from attngen.frontend.load import lower
from attngen.frontend.vocabulary import BUILT_IN
from attngen.ir.text import spec_text
from attngen.runtime.kernel import Kernel
from attngen.runtime.specialise import Spec
from attngen.runtime.support import require_backend, require_supported
from attngen.syntax import ast
from attngen.syntax.pyfront import read_function
from attngen.syntax.pyfront_expression import Constants, current

Value = int | float | bool
WORDS = frozenset(BUILT_IN["attention"])


class AttentionFunction:
    """A kernel written as a Python function; read and checked when it is first used.

    Called with tensors by position or name, in the order of the parameters that declare them;
    keywords that name a compile-time parameter set it. Python numbers the body uses are constants:
    if one changes, the next call makes another kernel.
    """

    def __init__(
        self,
        function: FunctionType,
        target: str | None = None,
        backend: str | None = None,
        **params: Value,
    ) -> None:
        self.function = function
        self.target = target
        self.backend = backend
        self.params = params
        self._kernels: dict[Hashable, Kernel] = {}
        self._names: frozenset[str] | None = None
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__wrapped__ = function

    def __call__(self, *tensors: Any, **by_name: Any) -> Any:
        """The result, or the tuple of results."""
        known = self._parameters()
        params = {n: v for n, v in by_name.items() if n in known}
        kernel = self.kernel(**params)
        return kernel(*tensors, **{n: v for n, v in by_name.items() if n not in known})

    def kernel(self, **params: Value) -> Kernel:
        """The kernel for these compile-time parameters."""
        given = {**self.params, **params}
        named = tuple((n, v, type(v)) for n, v in sorted(given.items()))
        now = tuple(current(f, spelled) for f, spelled in self._read[1])
        key = (named, tuple((v, type(v)) for v in now))
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = self._made(given)
        return kernel

    def set(self, **params: Value) -> AttentionFunction:
        """The same function with other values of compile-time parameters."""
        return AttentionFunction(
            self.function, self.target, self.backend, **{**self.params, **params}
        )

    @property
    def spec(self) -> str:
        """The spec as text of the language."""
        return spec_text(self.kernel().spec.attention)

    @property
    def source(self) -> str:
        """The text of the kernel file."""
        return self.kernel().source

    def explain(self, **sizes: int) -> str:
        """What the compiler made of it, in words."""
        return self.kernel().explain(**sizes)

    def reference(self, *tensors: Any, **by_name: Any) -> Any:
        """The same results by the definition, in float64."""
        return self.kernel().reference(*tensors, **by_name)

    def __deepcopy__(self, memo: dict[int, Any]) -> AttentionFunction:
        """Itself, as functions do."""
        return self

    def __repr__(self) -> str:
        return f"<attention function {self.__name__}>"

    def _parameters(self) -> frozenset[str]:
        """Names of the parameters with defaults."""
        if self._names is None:
            self._names = frozenset(n for n, _ in self.kernel().spec.attention.params)
        return self._names

    @functools.cached_property
    def _read(self) -> tuple[ast.Spec, Constants]:
        return read_function(self.function, WORDS)

    def _made(self, params: dict[str, Value]) -> Kernel:
        if self._kernels:  # a Python number has changed, or a parameter is set
            del self._read
        tree, _ = self._read
        attention = require_supported(lower(tree, params))
        spec = Spec.of(attention)
        if self.backend is not None:
            spec.options = {**spec.options, "backend": self.backend}
        require_backend(dict(spec.options))
        return Kernel(spec, find_target(self.target) if self.target else None)


@overload
def attention(function: Callable[..., Any]) -> AttentionFunction: ...


@overload
def attention(
    function: None = None,
    *,
    target: str | None = None,
    backend: str | None = None,
    **params: Value,
) -> Callable[[Callable[..., Any]], AttentionFunction]: ...


def attention(
    function: Callable[..., Any] | None = None,
    *,
    target: str | None = None,
    backend: str | None = None,
    **params: Value,
) -> Any:
    """Makes a kernel of a function: `@attention`, or `@attention(target="sm_90", window=1024)`.

    SpecError E015 for what is no Python function; other mistakes are reported at its first use, at
    the line and column of its file.
    """

    def make(function: Callable[..., Any]) -> AttentionFunction:
        if not isinstance(function, FunctionType):
            message = f"found a {type(function).__name__}, expected a function written with `def`"
            raise SpecError(Diagnostic("E015", message, help="put `@attention` above a `def`"))
        return AttentionFunction(function, target, backend, **params)

    return make if function is None else make(function)
