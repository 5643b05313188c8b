"""What is timed: shapes and formulas, their goals, their inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
WINDOW, DOCUMENT, CAP, BUCKETS = 1024, 1000, 30.0, 64
EXAMPLES = {"differential", "parallax"}  # specs that are taken from examples/
TENSORS = {"differential": ("q1", "q2", "k1", "k2", "v"), "parallax": ("q", "r", "k", "v")}
Values = dict[str, torch.Tensor | int]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    kind: the formula (a spec of bench/specs or examples/); width, value_width: features of keys and
    of values; forward, backward: least ratio to the fastest peer, 0 for none.
    """

    name: str
    kind: str
    batch: int
    heads: int
    length: int
    width: int = 128
    value_width: int = 0
    forward: float = 0.0
    backward: float = 0.0

    @property
    def features(self) -> int:
        """Features of a value."""
        return self.value_width or self.width

    @property
    def spec(self) -> Path:
        """The spec of this row."""
        if self.kind in EXAMPLES:
            return ROOT / "examples" / f"{self.kind}.attn"
        return ROOT / "bench" / "specs" / f"{self.kind}.attn"

    @property
    def softmaxes(self) -> int:
        """How many plain attentions a peer needs for it."""
        return 2 if self.kind in EXAMPLES else 1

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the query, key and value tensors."""
        return TENSORS.get(self.kind, ("q", "k", "v"))

    @property
    def kept(self) -> int:
        """Pairs of one head that the mask keeps, exactly (per-head windows: the mean)."""
        n = self.length
        if self.kind == "full":
            return n * n
        if self.kind in ("window", "softcap_window"):
            return sum(min(i + 1, WINDOW) for i in range(n))
        if self.kind == "head_windows":
            spans = head_spans(self.heads)
            return sum(sum(min(i + 1, w) for i in range(n)) for w in spans) // self.heads
        if self.kind == "documents":
            return sum(i % DOCUMENT + 1 for i in range(n))
        if self.kind == "prefix":
            return sum(max(i + 1, n // 4) for i in range(n))
        return n * (n + 1) // 2

    @property
    def forward_flops(self) -> float:
        """Operations of the two products over the kept pairs (of two softmaxes: of both)."""
        pairs = self.batch * self.heads * self.kept * self.softmaxes
        return 2.0 * pairs * (self.width + self.features)

    @property
    def backward_flops(self) -> float:
        """Operations of the five products of a backward: S, dQ, dK and dP, dV."""
        pairs = self.batch * self.heads * self.kept * self.softmaxes
        return 2.0 * pairs * (3 * self.width + 2 * self.features)

    def tiny(self) -> Row:
        """The same row at a size a CPU checks in a moment."""
        narrow = 16 if self.value_width else 0
        return replace(self, batch=1, heads=2, length=80, width=32, value_width=narrow)


def head_spans(heads: int) -> list[int]:
    """Windows of the heads: a quarter each of 256, 512, 1024 and 2048."""
    return [(256, 512, 1024, 2048)[h % 4] for h in range(heads)]


def all_rows() -> list[Row]:
    """Every line, plain attention first."""
    rows: list[Row] = []
    for n in (2048, 4096, 8192, 16384, 32768):
        batch = max(1, 16384 // n)
        rows += [
            Row(f"{kind} d128 S{n}", kind, batch, 16, n, forward=1.12, backward=1.03)
            for kind in ("full", "causal")
        ]
    for kind in ("full", "causal"):
        rows.append(Row(f"{kind} d64 S4096", kind, 4, 32, 4096, 64, forward=1.05, backward=0.95))
        rows.append(Row(f"{kind} d256 S8192", kind, 2, 8, 8192, 256, forward=1.02))
        rows.append(Row(f"{kind} d192/128 S8192", kind, 2, 16, 8192, 192, 128, forward=1.02))
    varied = [
        ("ALiBi causal", "alibi", 1.5, 1.1),
        ("softcap causal", "softcap", 1.6, 1.2),
        ("window 1024", "window", 1.15, 1.12),
        ("documents of 1000", "documents", 1.1, 1.2),
        ("prefix", "prefix", 1.2, 1.1),
        ("per-head windows", "head_windows", 1.2, 1.1),
        ("sinks and gate", "sinks_gate", 1.2, 1.1),
        ("relative bias table", "table_bias", 1.2, 1.1),
        ("softcap and window", "softcap_window", 1.2, 1.1),
        ("differential", "differential", 1.2, 1.1),
        ("Parallax", "parallax", 1.2, 1.1),
    ]
    return [*rows, *(Row(n, k, 2, 16, 8192, forward=f, backward=b) for n, k, f, b in varied)]


def inputs(row: Row, device: str, dtype: torch.dtype) -> Values:
    """Random tensors by the names of the spec: streams [B, H, S, D], and what the formula reads."""
    generator = torch.Generator(device=device).manual_seed(0)

    def random(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=dtype, generator=generator)

    b, h, n = row.batch, row.heads, row.length
    values: Values = {
        name: random(b, h, n, row.features if name == "v" else row.width) for name in row.streams
    }
    if row.kind == "parallax":
        values["r"] *= 0.1  # its terms cancel where the probe is large
    return values | _others(row, device, random)


def _others(row: Row, device: str, random: Callable[..., torch.Tensor]) -> Values:
    """What the formula reads besides its streams."""
    b, h, n = row.batch, row.heads, row.length
    values: Values = {}
    match row.kind:
        case "alibi":
            powers = torch.arange(1, h + 1, device=device, dtype=torch.float32)
            values["slope"] = 2.0 ** (-8.0 * powers / h)
        case "window" | "softcap_window":
            values["window"] = WINDOW
        case "documents":
            ids = (torch.arange(n, device=device) // DOCUMENT).to(torch.int32)
            values["doc"] = ids[None].repeat(b, 1)
        case "prefix":
            values["start"] = torch.full((b,), n // 4, device=device, dtype=torch.int32)
        case "head_windows":
            values["span"] = torch.tensor(head_spans(h), device=device, dtype=torch.int32)
        case "sinks_gate":
            values["sink"] = random(h, dtype=torch.float32)
            values["g"] = random(b, h, n, row.width)
        case "table_bias":
            values["table"] = random(h, 2 * BUCKETS + 1, dtype=torch.float32)
        case "differential":
            values["lam"] = random(h, dtype=torch.float32)
    return values
