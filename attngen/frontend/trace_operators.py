"""Python's operators of traced values; each is a function of `attngen.frontend.trace` by name."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from attngen.frontend.mistake import wrong
from attngen.frontend.trace_place import place


class Operators:
    """Python's operators, each an `operation` of its name."""

    @abstractmethod
    def operation(self, name: str, *args: Any) -> Any:
        """A function of traced values by its name."""

    def __add__(self, other: Any) -> Any:
        return self.operation("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self.operation("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self.operation("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.operation("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self.operation("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.operation("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.operation("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.operation("div", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self.operation("floordiv", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self.operation("floordiv", other, self)

    def __mod__(self, other: Any) -> Any:
        return self.operation("mod", self, other)

    def __rmod__(self, other: Any) -> Any:
        return self.operation("mod", other, self)

    def __pow__(self, other: Any) -> Any:
        return self.operation("pow", self, other)

    def __rpow__(self, other: Any) -> Any:
        return self.operation("pow", other, self)

    def __neg__(self) -> Any:
        return self.operation("neg", self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self.operation("abs", self)

    def __lt__(self, other: Any) -> Any:
        return self.operation("lt", self, other)

    def __le__(self, other: Any) -> Any:
        return self.operation("le", self, other)

    def __gt__(self, other: Any) -> Any:
        return self.operation("gt", self, other)

    def __ge__(self, other: Any) -> Any:
        return self.operation("ge", self, other)

    def __eq__(self, other: object) -> Any:
        return self.operation("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return self.operation("ne", self, other)

    __hash__ = None  # type: ignore[assignment] # `==` makes a formula, so it cannot find a key

    def __and__(self, other: Any) -> Any:
        return self.operation("bits_and", self, other)

    def __rand__(self, other: Any) -> Any:
        return self.operation("bits_and", self, other)

    def __or__(self, other: Any) -> Any:
        return self.operation("bits_or", self, other)

    def __ror__(self, other: Any) -> Any:
        return self.operation("bits_or", self, other)

    def __xor__(self, other: Any) -> Any:
        return self.operation("bits_xor", self, other)

    def __rxor__(self, other: Any) -> Any:
        return self.operation("bits_xor", self, other)

    def __invert__(self) -> Any:
        return self.operation("invert", self)

    def __lshift__(self, other: Any) -> Any:
        return self.operation("lshift", self, other)

    def __rshift__(self, other: Any) -> Any:
        return self.operation("rshift", self, other)

    def __bool__(self) -> bool:
        raise wrong(
            "E130",
            "Python asks here whether a traced value is true, which differs between positions",
            place(),
            "`if`, `and`, `or`, `not`, chained comparisons and `while` need one answer",
            "write `torch.where(c, a, b)`, and `&`, `|`, `~` between comparisons",
        )

    def __int__(self) -> int:
        raise self._plain("int")

    def __float__(self) -> float:
        raise self._plain("float")

    def __index__(self) -> int:
        raise self._plain("int")

    def _plain(self, kind: str) -> Exception:
        return wrong(
            "E130",
            f"Python asks here for the value of a traced number as {kind}",
            place(),
            "differs between positions",
            "use torch functions, and index captured tensors with positions",
        )
