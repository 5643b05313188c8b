"""Runs an attention spec: loops over sequences, heads and blocks of queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from attngen.ir.attention import Attention
from attngen.ir.expr import Expr
from attngen.ir.walk import walk
from attngen.reference.attend import Place, Tile, holds_sum, needs_cube
from attngen.reference.layout import assemble
from attngen.reference.sizes import Arguments, Sizes, bind_sizes, require_arguments, size_of
from attngen.reference.sparsity import chosen_blocks, listed_blocks
from attngen.reference.streams import Streams

MOST_ELEMENTS = 2**22  # of one intermediate value: bounds the memory of a call


@dataclass(frozen=True)
class Precision:
    """compute: dtype of every operation; product: weights and rows are rounded to it before `@`.

    scale: weights are rounded at this multiple of themselves.
    """

    compute: torch.dtype
    product: torch.dtype | None = None
    scale: float = 1.0


class Run:
    """One call: sizes bound, the sequences it holds, and their tiles."""

    def __init__(self, program: Attention, arguments: Arguments, precision: Precision) -> None:
        require_arguments(program.tensors, arguments)
        self.program = program
        self.precision = precision
        self.sizes: Sizes = bind_sizes(program.tensors, arguments)
        declared = {t.name: t for t in program.tensors}
        self.streams = Streams(declared, arguments, precision.compute)
        self.query = next(t for t in program.tensors if t.role == "query")
        self.key = next(t for t in program.tensors if t.role in ("key", "value") and not t.view)
        self.heads = size_of(self.query, "head", arguments)
        self.kv_heads = size_of(self.key, "head", arguments)
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.kv_heads} heads of {self.key.name!r} do not divide {self.heads} "
                f"heads of {self.query.name!r}"
            )

    @property
    def sequences(self) -> int:
        """Number of sequences: the batch, or the packed ones."""
        if self.query.packed is not None:
            return int(self.streams.tensor(self.query.packed).shape[0]) - 1
        return size_of(self.query, "batch", self.streams.arguments)

    @property
    def tokens(self) -> int:
        """Size of the position axis of the query."""
        return size_of(self.query, "position", self.streams.arguments)

    def outputs(self) -> tuple[torch.Tensor, ...]:
        """The results in the layout of the first query stream."""
        found = [self._sequence(b) for b in range(self.sequences)]
        return tuple(
            assemble(self.query, [one[i] for one in found], self.tokens, self._none(e))
            for i, (_, e) in enumerate(self.program.outputs)
        )

    def masks(self) -> Iterator[torch.Tensor]:
        """The kept pairs of each sequence, [heads, queries, keys]."""
        for b in range(self.sequences):
            rows = _Rows(self, b)
            places = (self._place(b, h) for h in range(self.heads))
            yield torch.stack([self._kept(place, rows) for place in places])

    def scores(self, score: Expr) -> torch.Tensor:
        """A score of every pair, -inf where it does not count: [axes of a number result, keys]."""
        found = [self._scores(score, b) for b in range(self.sequences)]
        keys = max((one.shape[2] for one in found), default=0)
        wide = [_pad_keys(one, keys) for one in found]
        none = torch.zeros(
            self.heads, 0, keys, dtype=self.precision.compute, device=self.streams.device
        )
        return assemble(self.query, wide, self.tokens, none)

    def _scores(self, score: Expr, b: int) -> torch.Tensor:
        rows = _Rows(self, b)
        heads = []
        for place in (self._place(b, h) for h in range(self.heads)):
            tile = self._tile(place, rows)
            tile.set_mask(self.program.mask, self._blocks(place, rows))
            value = tile.value(score).to(self.precision.compute).expand(tile.shape)
            heads.append(value.masked_fill(~tile.keep, -torch.inf))
        return torch.stack(heads)

    def _none(self, e: Expr) -> torch.Tensor:
        """A result over no positions."""
        width = () if e.feature is None else (self.sizes.extent(e.feature),)
        kind = self.precision.compute if e.kind == "float" else torch.int64
        return torch.zeros(self.heads, 0, *width, dtype=kind, device=self.streams.device)

    def _sequence(self, b: int) -> list[torch.Tensor]:
        """Each output of one sequence, [heads, queries] and a feature axis for rows."""
        rows = _Rows(self, b)
        heads = [self._head(self._place(b, h), rows) for h in range(self.heads)]
        return [torch.stack(one) for one in zip(*heads, strict=True)]

    def _head(self, place: Place, rows: _Rows) -> list[torch.Tensor]:
        blocks = self._blocks(place, rows)
        step = self._step(place)
        parts = []
        for start in range(0, max(place.q_len, 1), step):
            stop = min(start + step, place.q_len)
            part = Place(place.b, place.h, place.h_kv, start, stop, place.q_len, place.kv_len)
            tile = self._tile(part, rows)
            tile.set_mask(self.program.mask, None if blocks is None else blocks[start:stop])
            parts.append([self._output(tile, i) for i in range(len(self.program.outputs))])
        return [torch.cat(one) for one in zip(*parts, strict=True)]

    def _output(self, tile: Tile, number: int) -> torch.Tensor:
        """One result of a tile: [queries] or [queries, width]; 0 where a sum had no key."""
        _, e = self.program.outputs[number]
        value = tile.value(e)
        value = value.expand(tile.shape[0], 1, *value.shape[2:]).squeeze(1)
        if not holds_sum(e):
            return value
        some = tile.keep.any(1).reshape(-1, *(1,) * (value.dim() - 1))
        return torch.where(some, value, torch.zeros_like(value))

    def _place(self, b: int, h: int) -> Place:
        q_len = self.streams.length(self.query.name, b)
        kv_len = self.streams.length(self.key.name, b)
        return Place(b, h, h * self.kv_heads // self.heads, 0, q_len, q_len, kv_len)

    def _tile(self, place: Place, rows: _Rows) -> Tile:
        precision = self.precision
        own = rows.of_head(place.h)
        return Tile(self.streams, self.sizes, place, own, precision.product, precision.scale)

    def _kept(self, place: Place, rows: _Rows) -> torch.Tensor:
        tile = self._tile(place, rows)
        tile.set_mask(self.program.mask, self._blocks(place, rows))
        return tile.keep

    def _blocks(self, place: Place, rows: _Rows) -> torch.Tensor | None:
        sparsity = self.program.sparsity
        if sparsity is None:
            return None
        if sparsity.kind == "blocks":
            return listed_blocks(sparsity, self.streams, place, self.heads)
        tile = self._tile(place, rows)
        tile.set_mask(self.program.mask, None)
        head = rows.of_head(place.h)
        return chosen_blocks(sparsity, (self.streams, self.sizes), place, head, tile.keep)

    def _step(self, place: Place) -> int:
        """Queries evaluated at once."""
        nodes = list(walk(*(e for _, e in self.program.outputs)))
        width = 1
        if any(needs_cube(e) for e in nodes):
            width = max(self.sizes.extent(e.feature) for e in nodes if e.feature is not None)
        return max(1, MOST_ELEMENTS // max(1, place.kv_len * width))


def _pad_keys(scores: torch.Tensor, keys: int) -> torch.Tensor:
    return functional.pad(scores, (0, keys - scores.shape[2]), value=-torch.inf)


class _Rows:
    """The rows of one sequence, each tensor read once."""

    def __init__(self, run: Run, b: int) -> None:
        self._run, self._b = run, b
        self._cache: dict[str, torch.Tensor] = {}

    def of_head(self, h: int) -> _HeadRows:
        """Rows of a head by tensor name."""
        return _HeadRows(self, h)

    def of(self, name: str) -> torch.Tensor:
        """[heads, length, width]."""
        if name not in self._cache:
            self._cache[name] = self._run.streams.rows(name, self._b, self._run.heads)
        return self._cache[name]


class _HeadRows:
    def __init__(self, rows: _Rows, h: int) -> None:
        self._rows, self._h = rows, h

    def __call__(self, name: str) -> torch.Tensor:
        return self._rows.of(name)[self._h]
