"""Element types of the language."""

from __future__ import annotations

import enum


class Dtype(enum.Enum):
    """A dtype as it is spelled in a spec. HALF is float16 or bfloat16, whichever arrives."""

    HALF = "half"
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"
    F64 = "f64"
    FP8_E4M3 = "fp8_e4m3"
    FP8_E5M2 = "fp8_e5m2"
    I32 = "i32"
    I64 = "i64"
    I8 = "i8"
    BOOL = "bool"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"

    @property
    def is_float(self) -> bool:
        """Holds real numbers (block-quantised types included)."""
        return self not in (Dtype.I32, Dtype.I64, Dtype.I8, Dtype.BOOL)

    @property
    def is_integer(self) -> bool:
        """Holds whole numbers."""
        return self in (Dtype.I32, Dtype.I64, Dtype.I8)

    @property
    def is_quantised(self) -> bool:
        """Stored in blocks with a shared scale."""
        return self in (Dtype.Q8_0, Dtype.Q4_0)

    @property
    def bytes(self) -> int:
        """Bytes of one element in memory (1 for block-quantised types, rounded up)."""
        return _BYTES.get(self, 1)


_BYTES = {
    Dtype.HALF: 2,
    Dtype.F16: 2,
    Dtype.BF16: 2,
    Dtype.F32: 4,
    Dtype.F64: 8,
    Dtype.I32: 4,
    Dtype.I64: 8,
}
