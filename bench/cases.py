"""What is timed: the specs, their inputs, the same formula as FlexAttention callables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

SPECS = Path(__file__).parent / "specs"
DOCUMENT = 1000  # tokens of one document
WINDOW = 1024
CAP = 30.0

Mod = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One row of a table.

    shape: (batch, query heads, kv heads, query length, kv length, D); kind: the formula;
    goal: least time of FlexAttention over ours (forward), or GB/s (decode).
    """

    name: str
    kind: str
    shape: tuple[int, int, int, int, int, int]
    goal: float = 0.0
    window: int = WINDOW
    decode: bool = False

    @property
    def spec(self) -> Path:
        """The spec file of this row."""
        plain = {"full": "decode", "window": "decode_window", "softcap": "decode_softcap"}
        return SPECS / f"{plain[self.kind] if self.decode else self.kind}.attn"

    @property
    def kept(self) -> float:
        """Fraction of the score matrix that the mask keeps, exactly."""
        b, _, _, m, n, _ = self.shape
        del b
        offset = n - m
        if self.kind == "full":
            return 1.0
        rows = range(offset, offset + m)
        if self.kind == "window":
            return sum(min(i + 1, self.window) for i in rows) / (m * n)
        if self.kind == "documents":
            return sum(i % DOCUMENT + 1 for i in rows) / (m * n)
        return sum(i + 1 for i in rows) / (m * n)

    @property
    def flops(self) -> float:
        """Floating-point operations of the two products over the kept area."""
        b, h, _, m, n, d = self.shape
        return 4.0 * b * h * m * n * d * self.kept

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that have to be read (16-bit)."""
        b, _, hkv, _, n, d = self.shape
        return 2 * 2 * b * hkv * (min(n, self.window) if self.kind == "window" else n) * d

    def tiny(self) -> Case:
        """The same row at a size the interpreter runs in a second."""
        b, h, hkv, m, n, d = self.shape
        heads = (2, 1) if hkv < h else (2, 2)
        small = (min(b, 2), *heads, min(m, 96), min(n, 96), min(d, 32))
        return replace(self, shape=small, window=min(self.window, 40))


def forward_cases() -> list[Case]:
    """The rows compared with FlexAttention."""
    big, small = (2, 16, 16, 8192, 8192, 128), (4, 32, 32, 4096, 4096, 64)
    return [
        Case("full", "full", big, 1.08),
        Case("causal", "causal", big, 1.25),
        Case("ALiBi causal", "alibi", big, 1.30),
        Case("softcap causal", "softcap", big, 2.20),
        Case("window 1024", "window", big, 1.20),
        Case("documents of 1000", "documents", big, 1.35),
        Case("causal d 64", "causal", small, 1.12),
    ]


def decode_cases() -> list[Case]:
    """One new token against a long cache."""
    many, long = (16, 32, 8, 1, 8192, 128), (1, 32, 8, 1, 131072, 128)
    rows = []
    for label, shape in (("B16 S8192", many), ("B1 S131072", long)):
        rows += [
            Case(f"decode {label}", "full", shape, 3800, decode=True),
            Case(
                f"decode {label}, window of half", "window", shape, 3800, shape[4] // 2, decode=True
            ),
            Case(f"decode {label}, softcap", "softcap", shape, 3800, decode=True),
        ]
    return rows


def proportion_cases() -> list[Case]:
    """Time against the kept area; the dense row comes first."""
    shape = (1, 16, 16, 16384, 16384, 128)
    return [
        Case("S16384 full", "full", shape),
        Case("S16384 causal", "causal", shape, 1.15),
        Case("S16384 window 1024", "window", shape, 1.15),
        Case("S16384 documents of 1000", "documents", shape, 1.15),
    ]


def inputs(case: Case, device: str, dtype: torch.dtype) -> dict[str, torch.Tensor | int]:
    """Random tensors of a row, by the names of its spec."""
    b, h, hkv, m, n, d = case.shape
    generator = torch.Generator(device=device).manual_seed(0)
    values: dict[str, torch.Tensor | int] = {
        name: torch.randn(b, heads, rows, d, device=device, dtype=dtype, generator=generator)
        for name, heads, rows in (("q", h, m), ("k", hkv, n), ("v", hkv, n))
    }
    if case.kind == "alibi":
        values["slope"] = slopes(h, device)
    if case.kind == "window":
        values["window"] = case.window
    if case.kind == "documents":
        values["doc"] = documents(n, device)[None].repeat(b, 1)
    return values


def slopes(heads: int, device: str) -> torch.Tensor:
    """ALiBi's slopes for a power of two heads."""
    return 2.0 ** (-8.0 * torch.arange(1, heads + 1, device=device, dtype=torch.float32) / heads)


def documents(length: int, device: str) -> torch.Tensor:
    """Document id of each token."""
    return (torch.arange(length, device=device) // DOCUMENT).to(torch.int32)


def mods(case: Case, device: str) -> tuple[Mod | None, Mod | None]:
    """The row's (score_mod, mask_mod): for FlexAttention, and for the check."""
    _, h, _, m, n, _ = case.shape
    slope, doc, offset, window = slopes(h, device), documents(n, device), n - m, case.window

    def causal(b, h, i, j):
        return j <= i + offset

    def sliding(b, h, i, j):
        return (j <= i + offset) & (i + offset - j < window)

    def inside(b, h, i, j):
        return (doc[i] == doc[j]) & (j <= i)

    def alibi(s, b, h, i, j):
        return s + slope[h] * (j - i)

    def softcap(s, b, h, i, j):
        return CAP * torch.tanh(s / CAP)

    score = {"alibi": alibi, "softcap": softcap}.get(case.kind)
    if case.kind == "full":
        return score, None
    return score, {"window": sliding, "documents": inside}.get(case.kind, causal)


def visited(case: Case, device: str, block_q: int, block_k: int) -> float:
    """Share of the scores in tiles with a kept element: the least that a tiled kernel computes."""
    _, _, _, m, n, _ = case.shape
    _, keep = mods(case, device)
    if keep is None:
        return 1.0
    keys, tiles = torch.arange(n, device=device), 0
    for row in range(0, m, block_q):
        rows = torch.arange(row, min(row + block_q, m), device=device)
        columns = keep(0, 0, rows[:, None], keys[None, :]).any(0)
        columns = torch.nn.functional.pad(columns, (0, -n % block_k))
        tiles += int(columns.view(-1, block_k).any(1).sum())
    return tiles * block_q * block_k / (m * n)
