"""What the compiler does not build yet, said before anything is compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.dtype import Dtype
from attngen.ir.attention import Attention, Tensor
from attngen.ir.recurrence import Recurrence

BACKENDS = ("triton", "cute")
NUMERICS = ("fast", "exact")
EIGHT_BIT = (Dtype.FP8_E4M3, Dtype.FP8_E5M2)


def require_supported(program: Attention | Recurrence) -> Attention:
    """The program, if every part of it can be compiled.

    SpecError: E401 recurrences, E402 sparsity, E403 paged and E404 scaled storage, E405 8-bit and
    block-quantised tensors, E406 64-bit floats, E407 a backend that is not there.
    """
    if isinstance(program, Recurrence):
        span = program.states[0][1].span if program.states else None
        message = f"the recurrence {program.name} is checked, but recurrences are not built yet"
        fix = "`attention` specs compile; the reference runs recurrences"
        raise SpecError(Diagnostic("E401", message, span, "state", fix))
    require_backend(dict(program.schedule))
    problems = [*_sparsity(program)]
    for tensor in program.tensors:
        problems += _storage(tensor)
    if problems:
        raise SpecError(problems)
    return program


def _sparsity(program: Attention) -> Iterator[Diagnostic]:
    if program.sparsity is not None:
        yield Diagnostic(
            "E402",
            f"block lists ({program.sparsity.kind}) are not built yet",
            program.sparsity.span,
            help="write the pattern as a `mask`: tiles that it leaves empty are skipped",
        )


def require_backend(options: Mapping[str, str | int | bool]) -> None:
    """SpecError E407 unless the option `backend` names one that is there."""
    backend = options.get("backend", "triton")
    if backend not in BACKENDS:
        message = f"there is no backend {backend!s:.40}; there are {', '.join(BACKENDS)}"
        raise SpecError(Diagnostic("E407", message, help="backend = triton"))


def require_words(options: Mapping[str, str]) -> None:
    """The options of a call. SpecError: E407 an unknown backend, E303 an unknown value."""
    require_backend(options)
    numerics = options.get("numerics", NUMERICS[0])
    if numerics not in NUMERICS:
        message = f"numerics must be one of {', '.join(NUMERICS)}, found {numerics!r:.40}"
        raise SpecError(Diagnostic("E303", message, help='numerics="exact"'))


def _storage(tensor: Tensor) -> Iterator[Diagnostic]:
    name, span = tensor.name, tensor.span
    if tensor.paged is not None:
        message = f"{name} is paged, and paged storage is not built yet"
        yield Diagnostic("E403", message, span, help=f"declare {name} as half[B, Hkv, Skv, D]")
    if tensor.scaled is not None:
        message = f"{name} is scaled, and scaled storage is not built yet"
        yield Diagnostic("E404", message, span, help=f"declare {name} as half, without scaled(...)")
    if tensor.dtype in EIGHT_BIT or tensor.dtype.is_quantised:
        message = f"{name} is {tensor.dtype.value}, and tensors of that dtype are not built yet"
        yield Diagnostic("E405", message, span, help=f"declare {name} as half")
    if tensor.dtype is Dtype.F64 and tensor.is_stream:
        message = f"{name} is f64, and kernels work in f32 or less"
        yield Diagnostic("E406", message, span, help=f"declare {name} as f32")
