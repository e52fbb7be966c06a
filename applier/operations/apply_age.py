"""How old the oldest WAL is that is stored and not replayed.  Pure; `now` is monotonic seconds."""

from __future__ import annotations

from collections import deque

import msgspec

PIECE_SECONDS = 0.01
"""What arrives within it is one piece, whose age may be overstated by as much."""

MAX_PIECES = 256
"""Remembered at once; when there are more, pieces are joined two by two."""


class _Piece(msgspec.Struct):
    """WAL up to `end`, of which the first byte came at `first_at`."""

    end: int
    first_at: float


class ApplyAge:
    """Remembers when WAL arrived for as long as the standby has not replayed it.

    A fixed amount of memory serves a standby of any age, and an age is never understated.
    """

    def __init__(self) -> None:
        self._pieces: deque[_Piece] = deque()
        self._begin: int | None = None
        """Of the first piece: when what lies below it came is not known."""
        self._end = 0
        self._piece_seconds = PIECE_SECONDS

    def stored(self, durable_lsn: int, applied_lsn: int, now: float) -> None:
        """The store is durable up to `durable_lsn`, and `applied_lsn` is replayed."""
        if self._begin is None or durable_lsn < self._end:
            # The first that is heard; or another timeline or chain, which begins below.
            self._pieces.clear()
            self._begin = self._end = durable_lsn
            return
        if durable_lsn == self._end:
            return
        self._forget(applied_lsn)
        if self._pieces and now - self._pieces[-1].first_at < self._piece_seconds:
            self._pieces[-1].end = durable_lsn
        else:
            self._pieces.append(_Piece(durable_lsn, now))
            if len(self._pieces) > MAX_PIECES:
                self._join()
        self._end = durable_lsn

    def seconds(self, durable_lsn: int, applied_lsn: int, now: float) -> float | None:
        """0 if all is replayed; None if the oldest came before anything was remembered."""
        if applied_lsn >= durable_lsn:
            return 0.0
        if self._begin is None or applied_lsn < self._begin:
            return None
        waiting = (each.first_at for each in self._pieces if each.end > applied_lsn)
        # None waits: it became durable in this moment, and is not heard of yet.
        return max(0.0, now - next(waiting, now))

    def _forget(self, applied_lsn: int) -> None:
        while self._pieces and self._pieces[0].end <= applied_lsn:
            self._begin = self._pieces.popleft().end
        if not self._pieces:
            self._piece_seconds = PIECE_SECONDS

    def _join(self) -> None:
        pieces = list(self._pieces)
        pairs = zip(pieces[::2], pieces[1::2], strict=False)
        joined = [_Piece(second.end, first.first_at) for first, second in pairs]
        self._pieces = deque([*joined, *pieces[2 * len(joined) :]])
        self._piece_seconds *= 2
