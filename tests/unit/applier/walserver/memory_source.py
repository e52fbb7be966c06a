"""A `WalSource` in memory: what the WAL server needs of the store, and nothing durable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from applier.store.reading import FileSlice
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position
from logship.wal import History, WalLine, parse_history


@dataclass(frozen=True)
class MemoryRun:
    """WAL in one piece: timeline to (start, end)."""

    extents: dict[int, tuple[Lsn, Lsn]]

    @property
    def end(self) -> Position:
        timeline = max(self.extents)
        return Position(timeline, self.extents[timeline][1])

    def extent_of(self, timeline: int, /) -> tuple[Lsn, Lsn] | None:
        return self.extents.get(timeline)


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
        self.written: Position | None = None
        self.failure: LogshipError | None = None
        """What `read` raises, if anything."""
        self.reads: list[tuple[int, Lsn, int]] = []
        self._chains: list[dict[int, tuple[Lsn, bytearray]]] = [{}]
        self._contents: dict[int, bytes] = {}
        self._callbacks: list[Callable[[], None]] = []

    def histories(self) -> Mapping[int, History]:
        return {tli: parse_history(tli, content) for tli, content in self._contents.items()}

    def history_content(self, timeline: int, /) -> bytes | None:
        return self._contents.get(timeline)

    def end_of(self, timeline: int, /) -> Lsn | None:
        held = self._chains[-1].get(timeline)
        return None if held is None else Lsn(held[0] + len(held[1]))

    def runs(self) -> list[MemoryRun]:
        return [
            MemoryRun({tli: (start, Lsn(start + len(data))) for tli, (start, data) in one.items()})
            for one in reversed(self._chains)
            if one
        ]

    def shape(self) -> object:
        return self.written, self.runs(), dict(self._contents)

    def read(self, timeline: int, lsn: int, max_bytes: int, /) -> bytes:
        self.reads.append((timeline, Lsn(lsn), max_bytes))
        if self.failure is not None:
            raise self.failure
        for chain in reversed(self._chains):
            start, data = chain.get(timeline, (Lsn(0), b""))
            if start <= lsn <= start + len(data) and timeline in chain:
                return bytes(data[lsn - start : lsn - start + max_bytes])
        raise LogshipError(Code.WAL_REMOVED, f"{Lsn(lsn)} of timeline {timeline} is not here")

    def share(self, timeline: int, lsn: int, max_bytes: int, /) -> FileSlice | None:
        """None: there is no file."""
        return None

    def subscribe(self, callback: Callable[[], None], /) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def append(self, timeline: int, lsn: int, data: bytes) -> None:
        chain = self._chains[-1]
        start, held = chain.setdefault(timeline, (Lsn(lsn), bytearray()))
        end = start + len(held)
        assert end == lsn, f"a gap in the test's WAL: {Lsn(end)} and {Lsn(lsn)}"
        held += data
        if self.written is None or timeline >= self.written.timeline or len(chain) == 1:
            self.written = Position(timeline, Lsn(lsn + len(data)))
        self._tell()

    def begin_chain(self, timeline: int, lsn: int) -> None:
        """WAL goes on here, and what lies between is missing."""
        self._chains.append({timeline: (Lsn(lsn), bytearray())})
        self.written = Position(timeline, Lsn(lsn))
        self._tell()

    def forget_chain(self, number: int) -> None:
        """Lose the files of the chain `number`, counted from 0."""
        self._chains[number].clear()
        self._tell()

    def lose(self, timeline: int, lsn: int) -> None:
        """Forget the bytes from `lsn` on, as a crash does with what was not durable."""
        start, held = self._chains[-1][timeline]
        del held[lsn - start :]
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
