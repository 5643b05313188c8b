"""Where a thread's scores stand, and what the functions of the spec see of a tile (`At`)."""

from __future__ import annotations

from typing import Any

from attngen.cutelib.fragments import column_of
from attngen.cutelib.ops import Position, minimum

WARPGROUP = 128


class At:
    """A tile of queries: arguments by name, b, h, row0, row1, q_len, kv_len and further indices."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    def with_values(self, **values: Any) -> At:
        """The same with more, or other, values."""
        return At({**self.__dict__, **values})

    def position(self, q_idx: Position) -> Position:
        """The key position of a query: the last query stands at the last key."""
        return Position(q_idx.base + (self.kv_len - self.q_len), q_idx.offset)

    def row(self, q_idx: Any) -> Any:
        """A query that exists, to read memory at."""
        return minimum(q_idx, self.q_len - 1)

    def key(self, kv_idx: Any) -> Any:
        """A key that exists, to read memory at."""
        return minimum(kv_idx, self.kv_len - 1)


class Places:
    """Rows and columns of a thread's registers of one warpgroup's scores.

    thread: index among the consumers. Row r (of two) is `row + 8 * r`; column register c is
    `column_of(c) + lane` from the first key of the block.
    """

    def __init__(self, thread) -> None:
        warp, lane = thread // 32, thread % 32
        self.thread = thread
        self.row = warp // 4 * 64 + warp % 4 * 16 + lane // 4
        self.lane = 2 * (thread % 4)

    def query(self, at: At, r: int) -> Position:
        """Query of row register r."""
        return Position(at.row0 + self.row, 8 * r)

    def key(self, first, c: int) -> Position:
        """Key of column register c, of the block that begins at `first`."""
        return Position(first + self.lane, column_of(c))
