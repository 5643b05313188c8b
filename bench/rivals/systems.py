"""The systems that are compared: what each can do, and how it is called.

A peer that computes one softmax serves the rows of two softmaxes with two calls; for Parallax these
stand for the time only (`stands_in`), since no two plain attentions give its result.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rivals import peers
from rivals.rows import Row, Values

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Ready:
    """A system prepared for a row.

    call: one forward, giving [B, H, S, features]; leaves: the streams it reads, in the row's order;
    set_up: what is done once per mask (block masks, plans), to be timed; None for nothing.
    """

    call: Callable[[], torch.Tensor]
    leaves: Sequence[torch.Tensor]
    set_up: Callable[[], Any] | None = None
    stands_in: bool = False


@dataclass(frozen=True)
class System:
    """A column. missing: why it cannot be used here, or ""; skips: why not for a row, or ""."""

    name: str
    ours: bool
    missing: Callable[[], str]
    skips: Callable[[Row], str]
    prepare: Callable[[Row, Values], Ready]


def systems() -> list[System]:
    """Every column: attngen's backends, then the peers."""
    return [
        System("attngen Triton", True, _here, _any, lambda r, v: _attngen(r, v, "triton")),
        System("attngen CuTe", True, _needs("cutlass"), _any, lambda r, v: _attngen(r, v, "cute")),
        System("CuTe, any order", True, _needs("cutlass"), _any, _any_order),
        _peer("SDPA cuDNN", peers.cudnn, _plain, "torch"),
        _peer("SDPA FA2", peers.fa2, _one_width, "torch"),
        _peer("flex Triton", peers.flex_triton, _any, "torch"),
        _peer("flex FLASH", peers.flex_flash, _any, "flash_attn.cute"),
        _peer("FA4", peers.fa4, _fa4_kinds, "flash_attn.cute"),
        _peer("cudnn.flex", peers.cudnn_flex, _masks_only, "cudnn.flex_attention"),
    ]


def _peer(name: str, make: Callable[..., Any], skips: Callable[[Row], str], module: str) -> System:
    def prepare(row: Row, values: Values) -> Ready:
        return _softmaxes(row, values, make)

    return System(name, False, _needs(module), skips, prepare)


def _softmaxes(row: Row, values: Values, make: Callable[..., Any]) -> Ready:
    """One attention, or two of them put together."""
    leaves = [values[n].detach().clone().requires_grad_() for n in row.streams]
    named = dict(zip(row.streams, leaves, strict=True))
    attend, set_up = make(row, values)
    if row.kind == "differential":
        lam = values["lam"][:, None, None]

        def differential() -> torch.Tensor:
            first = attend(named["q1"], named["k1"], named["v"])
            second = attend(named["q2"], named["k2"], named["v"])
            return first - (lam * second).to(first.dtype)

        return Ready(differential, leaves, set_up)
    if row.kind == "parallax":

        def twice() -> torch.Tensor:
            first = attend(named["q"], named["k"], named["v"])
            return first + attend(named["r"], named["k"], named["v"])

        return Ready(twice, leaves, set_up, stands_in=True)
    return Ready(lambda: attend(*leaves), leaves, set_up)


def _attngen(row: Row, values: Values, backend: str) -> Ready:
    return _ready(row, values, str(row.spec), backend=backend)


def _ready(row: Row, values: Values, spec: str, **options: str) -> Ready:
    import attngen

    kernel = attngen.compile(spec, **options)
    leaves = {n: values[n].detach().clone().requires_grad_() for n in row.streams}
    given = {**values, **leaves}
    return Ready(lambda: kernel(**given), list(leaves.values()))


def _any_order(row: Row, values: Values) -> Ready:
    """With dQ summed in any order, as the peers do: other bits in each run."""
    text = row.spec.read_text(encoding="utf-8").rstrip().removesuffix("}")
    return _ready(row, values, text + "  schedule { backend = cute gradients = unordered }\n}\n")


def _here() -> str:
    return ""


def _needs(module: str) -> Callable[[], str]:
    def missing() -> str:
        try:
            found = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        return "" if found else f"{module} is not installed"

    return missing


def _any(row: Row) -> str:
    del row
    return ""


def _plain(row: Row) -> str:
    return "" if row.kind in ("full", "causal", "differential", "parallax") else "no such formula"


def _one_width(row: Row) -> str:
    return _plain(row) or ("" if row.features == row.width else "values of another width")


def _masks_only(row: Row) -> str:
    kinds = ("window", "documents", "prefix", "head_windows")
    return "" if not _plain(row) or row.kind in kinds else "no scores, no sinks"


def _fa4_kinds(row: Row) -> str:
    kinds = ("window", "softcap", "softcap_window", "sinks_gate")
    return "" if not _plain(row) or row.kind in kinds else "a formula to be written by hand"
