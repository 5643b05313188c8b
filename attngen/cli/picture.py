"""The mask of one head as a picture: what is kept, and what the kernel does with each tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attngen.cli.building import runtime_spec
from attngen.cli.defaults import axis_sizes
from attngen.cli.input import HALF_DTYPES, Spec
from attngen.cli.mistake import InputError
from attngen.ir.attention import Attention
from attngen.passes.counts import tile_classes
from attngen.passes.pipeline import build_program
from attngen.reference.execute import keep_mask
from attngen.reference.inputs import make_inputs

LENGTH, LONGEST = 512, 4096
TORCH_HALF = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
MOST_LINES = 64  # tiles of a side that still get a grid
# what a pixel is -> colour; the last would be a bug, and is painted so that nobody misses it
COLOURS = {
    "skipped": "#f4f4f2",
    "masked in a partial tile": "#fbe3c4",
    "kept in a partial tile": "#e8932f",
    "kept in a full tile": "#3b7ea1",
    "kept but skipped": "#ff0000",
}


@dataclass(frozen=True)
class Picture:
    """One head. keep: bool [Sq, Skv]; tiles: (query tile, key tile) -> "partial" or "full"."""

    title: str
    keep: torch.Tensor
    tiles: Mapping[tuple[int, int], str]
    tile: tuple[int, int]

    @property
    def kept(self) -> float:
        """Fraction of pairs the mask keeps."""
        return float(self.keep.float().mean()) if self.keep.numel() else 0.0

    def counts(self) -> dict[str, int]:
        """Tiles by class."""
        rows, columns = (-(-n // t) for n, t in zip(self.keep.shape, self.tile, strict=True))
        named = {n: sum(c == n for c in self.tiles.values()) for n in ("partial", "full")}
        return {"skipped": rows * columns - len(self.tiles), **named}

    def pixels(self) -> torch.Tensor:
        """Index into COLOURS of each pair: int [Sq, Skv]."""
        kept = self.keep.long()
        out = 4 * kept
        for (i, j), kind in self.tiles.items():
            at = tuple(slice(n * t, (n + 1) * t) for n, t in zip((i, j), self.tile, strict=True))
            out[at] = 3 * kept[at] if kind == "full" else 1 + kept[at]
        return out


def classify(
    spec: Spec, sizes: Mapping[str, int], dtype: str, seed: int, head: int, tile: tuple[int, int]
) -> Picture:
    """Inputs from the seed, the mask from the reference, the tiles from the compiler's bounds."""
    attention = runtime_spec(spec).attention
    if min(tile) < 1:
        raise InputError(f"a tile has at least one row and column, found {tile[0]} x {tile[1]}")
    lengths = {**_lengths(spec), **sizes}
    if max(lengths.values()) > LONGEST:
        raise InputError(f"a picture has at most {LONGEST} positions a side", "--size S=1024")
    tensors = make_inputs(attention, lengths, seed=seed, half=TORCH_HALF[dtype])
    keep = keep_mask(attention, tensors)
    if not 0 <= head < keep.shape[1]:
        raise InputError(f"there is no head {head}: the spec has {keep.shape[1]} here")
    program = build_program(attention, spec.sizes, HALF_DTYPES[dtype])
    environment = _environment(attention, tensors, head)
    q_len, kv_len = keep.shape[2:]
    classes = tile_classes(
        program.mask, environment, q_len, kv_len, block_q=tile[0], block_k=tile[1]
    )
    title = f"{attention.name}, head {head}, tiles of {tile[0]} x {tile[1]}"
    return Picture(title, keep[0, head], {(i, j): kind for i, j, kind in classes}, tile)


def paint(picture: Picture, path: Path) -> None:
    """Writes the picture; its format is that of the suffix."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        raise InputError("drawing needs matplotlib", "pip install matplotlib") from None
    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure, axes = pyplot.subplots(figsize=(8, 8.8), layout="constrained")
    colours = list(COLOURS.values())
    axes.imshow(
        picture.pixels().numpy(),
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
        interpolation="nearest",
        aspect="auto",
    )
    _grid(axes, picture)
    present = set(picture.pixels().flatten().tolist())
    handles = [Patch(color=c, label=n) for i, (n, c) in enumerate(COLOURS.items()) if i in present]
    told = ", ".join(f"{count} {name}" for name, count in picture.counts().items())
    axes.set(xlabel="key", ylabel="query", title=f"{picture.title}\n{told}")
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _lengths(spec: Spec) -> dict[str, int]:
    small = {"B": 1, "H": 2, "Hq": 2, "Hkv": 1, "Hv": 2, "G": 2}
    return {n: small.get(n, LENGTH) for n in axis_sizes(spec, {}, gpu=False) if n not in spec.sizes}


def _environment(attention: Attention, tensors: Mapping[str, Any], head: int) -> dict[str, Any]:
    """What the bounds read: indices of the first sequence, scalars, and tensors as lists."""
    heads = {
        t.role: tensors[t.name].shape[axis]
        for t in attention.tensors
        if t.view is None and (axis := t.axis("head")) is not None and t.is_stream
    }
    group = max(1, heads.get("query", 1) // max(1, heads.get("key", 1)))
    values = {
        name: value.tolist() if isinstance(value, torch.Tensor) else value
        for name, value in tensors.items()
        if not attention.tensor(name).is_stream
    }
    return {**values, "b": 0, "h": head, "h_kv": head // group}


def _grid(axes: Any, picture: Picture) -> None:
    sides = list(zip(picture.keep.shape, picture.tile, strict=True))
    if any(-(-n // t) > MOST_LINES for n, t in sides):
        return
    (rows, tall), (columns, wide) = sides
    axes.set_yticks([n - 0.5 for n in range(0, rows + 1, tall)], minor=True)
    axes.set_xticks([n - 0.5 for n in range(0, columns + 1, wide)], minor=True)
    axes.grid(which="minor", color="#00000022", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
