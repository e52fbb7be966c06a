"""How much work to put into making what is shipped small.

Small is what a slow road needs.  On a fast one the processors are what is short, at both ends:
there half the work for payloads up to twice as large gets more across (docs/performance.md).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from logship.seal import Bytes, Sealed, seal

_POOR_RATIO: Final = 0.95
_POOR_CHUNKS: Final = 4
_UNCOMPRESSED_CHUNKS: Final = 32
_MEMORY: Final = 1 / 16
"""What one chunk weighs in the averages."""
_MUCH_WAITING: Final = 0.5
_LITTLE_WAITING: Final = 0.1
_FAST_ROAD_BYTES_PER_SECOND: Final = 32_000_000
"""Of sealed bytes.  A road that carries so many is not what waits, even if its window is
closed most of the time: then the far end is busy, and has less to do for quick chunks."""


class Effort(Enum):
    """What is done to make a chunk small."""

    NONE = auto()
    QUICK = auto()
    THOROUGH = auto()

    def seal(self, raw: Bytes) -> Sealed:
        """`logship.seal.seal` with this effort."""
        return seal(raw, compress=self is not Effort.NONE, quick=self is Effort.QUICK)


class Compression:
    """How to compress the next chunk.

    After some chunks that hardly shrank a run of chunks goes uncompressed, then one is tried.
    Else it is done thoroughly where most of the time goes by waiting for room on a slow road,
    and quickly everywhere else.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._poor_chunks = 0
        self._left_alone_chunks = 0
        self._road_waits = False
        self._waiting_share = 0.0
        self._bytes_per_second = 0.0
        self._last_sent_at: float | None = None

    def next_chunk(self) -> Effort:
        if not self._enabled:
            return Effort.NONE
        if self._left_alone_chunks == 0 and self._poor_chunks >= _POOR_CHUNKS:
            self._left_alone_chunks = _UNCOMPRESSED_CHUNKS
            self._poor_chunks = _POOR_CHUNKS - 1  # the one tried after them decides
        if self._left_alone_chunks:
            self._left_alone_chunks -= 1
            return Effort.NONE
        return Effort.THOROUGH if self._road_waits else Effort.QUICK

    def saw(self, sealed: Sealed) -> None:
        """What came of a chunk that was tried."""
        poor = len(sealed.payload) > sealed.raw_bytes * _POOR_RATIO
        self._poor_chunks = self._poor_chunks + 1 if poor else 0

    def sent(self, sealed_bytes: int, asked_at: float, now: float) -> None:
        """A chunk was given to the road at `asked_at`, which took it at `now` (monotonic)."""
        since, self._last_sent_at = self._last_sent_at, now
        if since is None or now <= since:
            return
        share = min((now - asked_at) / (now - since), 1.0)
        self._waiting_share += (share - self._waiting_share) * _MEMORY
        rate = sealed_bytes / (now - since)
        self._bytes_per_second += (rate - self._bytes_per_second) * _MEMORY
        limit = _LITTLE_WAITING if self._road_waits else _MUCH_WAITING
        self._road_waits = (
            self._waiting_share > limit and self._bytes_per_second < _FAST_ROAD_BYTES_PER_SECOND
        )
