"""A `WalSource` in memory: what the WAL server needs of the store, and nothing durable."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import History, WalLine, parse_history


class MemorySource:
    """Timelines as byte arrays.  `append` and `add_history` call the subscribers at once."""

    def __init__(
        self,
        *,
        system_identifier: int = 7_301_234_567_890_123_456,
        major: int = 17,
        segment_bytes: int = 1 << 20,
    ) -> None:
        self.line = WalLine(system_identifier, major, segment_bytes)
        self.start: Position | None = None
        self.written: Position | None = None
        self.failure: LogshipError | None = None
        """What `read` raises, if anything."""
        self.reads: list[tuple[int, Lsn, int]] = []
        self._starts: dict[int, Lsn] = {}
        self._bytes: dict[int, bytearray] = {}
        self._contents: dict[int, bytes] = {}
        self._callbacks: list[Callable[[], None]] = []

    def histories(self) -> Mapping[int, History]:
        return {tli: parse_history(tli, content) for tli, content in self._contents.items()}

    def history_content(self, timeline: int, /) -> bytes | None:
        return self._contents.get(timeline)

    def end_of(self, timeline: int, /) -> Lsn | None:
        if timeline not in self._bytes:
            return None
        return Lsn(self._starts[timeline] + len(self._bytes[timeline]))

    def read(self, timeline: int, lsn: int, max_bytes: int, /) -> bytes:
        self.reads.append((timeline, Lsn(lsn), max_bytes))
        if self.failure is not None:
            raise self.failure
        start = self._starts.get(timeline)
        if start is None or lsn < start:
            raise LogshipError(Code.WAL_REMOVED, f"{Lsn(lsn)} of timeline {timeline} is not here")
        offset = lsn - start
        return bytes(self._bytes[timeline][offset : offset + max_bytes])

    def subscribe(self, callback: Callable[[], None], /) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def append(self, timeline: int, lsn: int, data: bytes) -> None:
        if timeline not in self._bytes:
            self._starts[timeline], self._bytes[timeline] = Lsn(lsn), bytearray()
        end = self.end_of(timeline)
        assert end == lsn, f"a gap in the test's WAL: {end} and {Lsn(lsn)}"
        self._bytes[timeline] += data
        if self.start is None:
            self.start = Position(timeline, Lsn(lsn))
        if self.written is None or timeline >= self.written.timeline:
            self.written = Position(timeline, Lsn(lsn + len(data)))
        self._tell()

    def lose(self, timeline: int, lsn: int) -> None:
        """Forget the bytes from `lsn` on, as a crash does with what was not durable."""
        del self._bytes[timeline][lsn - self._starts[timeline] :]
        self.written = Position(timeline, Lsn(lsn))
        self._tell()

    def add_history(self, timeline: int, content: bytes) -> None:
        self._contents[timeline] = content
        self._tell()

    @property
    def subscribers(self) -> int:
        return len(self._callbacks)

    def _tell(self) -> None:
        for callback in list(self._callbacks):
            callback()
