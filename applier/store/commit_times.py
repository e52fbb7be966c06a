"""The (LSN, time) index: for each finished segment, its last commit and when that was.

It narrows a search for a time to a few segments, and says what times the store reaches over.
It can be derived from the segments at any time, so it is written without any sync, by a thread
of its own, after a segment is finished: the WAL's way has no part in it, and what a crash takes
of it is looked up again.  docs/store-format.md describes the file.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import crc32c

from applier.store.positions import Extent
from logship import durable
from logship.lsn import Lsn
from logship.wal import WAL_PAGE_BYTES, WalLine, segment_end
from logship.wal_records import Kind, RecordWalk, transaction_kind
from logship.wal_search import places_of

FILE_NAME: Final = "commit-times"
"""Beside the store's directory, `wal`."""

_HEAD = struct.Struct("<8sIIQ")  # magic, version, segment_bytes, system_identifier
_MAGIC, _VERSION = b"LOGSHIPC", 1
_ENTRY = struct.Struct("<IIQQqI4x")  # timeline, flags, segment, commit_lsn, time, CRC-32C
_CHECKED_BYTES = 32
_HAS_COMMIT = 1
_END_BYTES: Final = 8 * WAL_PAGE_BYTES
"""Of a segment, where its last commit is as a rule."""
_PIECE_BYTES: Final = 64 * WAL_PAGE_BYTES
"""Looked at and held at once."""
_SPLIT_BYTES: Final = 64
"""So far behind a page's end may be the part of a header that says what a record is."""
_RM_XACT: Final = 1  # RM_XACT_ID
_KEPT_BESIDE = 1024
"""Entries of segments that are gone, or doubles, which the file may have besides twice as many
as are of use, before it is written anew."""

Read = Callable[[int, int, int], bytes]
"""(timeline, LSN, at most so many bytes): `Store.read`."""
Segment = tuple[int, int]
"""(timeline, start LSN)."""


class LastCommit(NamedTuple):
    """The last commit or abort whose record lies wholly in a segment."""

    end_lsn: Lsn
    time: int
    """Microseconds since 1970-01-01 UTC, by the primary's clock."""


Times = dict[Segment, LastCommit | None]
"""None: no transaction ended in that segment."""


def finished_segments(extents: Mapping[int, Extent], segment_bytes: int) -> Iterator[Segment]:
    """The whole segments among what is held."""
    for timeline, extent in extents.items():
        first = -(-extent.start // segment_bytes) * segment_bytes
        for start in range(first, extent.end - extent.end % segment_bytes, segment_bytes):
            yield timeline, int(start)


def last_commit(
    read: Read, line: WalLine, timeline: int, start: int, *, only_end: bool = False
) -> LastCommit | None:
    """Look for a segment's last commit, from its end backwards: its last pages as a rule.

    only_end: look no further than that; None means nothing then.  Raises what `read` does.  A
    record that can't be read hides those after it in its piece.
    """
    end = segment_end(start, line.segment_bytes)
    stop, size_bytes = int(end), _END_BYTES
    while stop > start:
        begin = max(start, stop - size_bytes)
        found = _last_between(read, line, timeline, begin, stop, end)
        if found is not None or only_end:
            return found
        stop, size_bytes = begin, _PIECE_BYTES
    return None


def _last_between(
    read: Read, line: WalLine, timeline: int, begin: int, stop: int, end: int
) -> LastCommit | None:
    """The last commit that begins in [begin, stop), pages' starts, and ends by `end`."""
    seen = min(end, stop + _SPLIT_BYTES)
    data = b"".join(_pieces(read, timeline, begin, seen))
    # Right before a record's xl_rmid is its xl_info.
    infos = (data[offset - 1] for offset in places_of(_RM_XACT, begin, data))
    if all(transaction_kind(info) is None for info in infos):
        return None
    walk = RecordWalk(line, begin, until=stop)
    marks = walk.feed(data[: stop - begin])
    rest = _pieces(read, timeline, stop, end)
    while walk.is_in_record and (piece := next(rest, None)) is not None:
        marks += walk.feed(piece)
    marks += walk.finish()
    for mark in reversed(marks):
        if mark.kind in (Kind.COMMIT, Kind.ABORT) and mark.time is not None:
            return LastCommit(Lsn(mark.end_lsn), mark.time)
    return None


def _pieces(read: Read, timeline: int, lsn: int, end: int) -> Iterator[bytes]:
    while lsn < end and (piece := read(timeline, lsn, min(end - lsn, _PIECE_BYTES))):
        yield piece
        lsn += len(piece)


class CommitTimes:
    """The index's file.  Used by one thread at a time; `times` may be looked at by others."""

    def __init__(self, path: Path, line: WalLine) -> None:
        self.times: Times = {}
        self._path = path
        self._line = line
        self._entries = 0
        """In the file, whatever they are of."""

    def load(self) -> None:
        """Read what is there.  What can't be read is as if it were not there."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return
        if data[: _HEAD.size] != self._head():
            return
        body = data[_HEAD.size :]
        self._entries = -(-len(body) // _ENTRY.size)
        for offset in range(0, len(body) - _ENTRY.size + 1, _ENTRY.size):
            timeline, flags, start, lsn, time, checksum = _ENTRY.unpack_from(body, offset)
            if crc32c.crc32c(body[offset : offset + _CHECKED_BYTES]) == checksum:
                found = LastCommit(Lsn(lsn), time) if flags & _HAS_COMMIT else None
                self.times[timeline, start] = found

    def add(self, segment: Segment, found: LastCommit | None) -> None:
        """Keep what was found.  A file that can't be written costs only the time to look again."""
        self.times[segment] = found
        with contextlib.suppress(OSError):
            self._append(_entry(segment, found))

    def keep_only(self, wanted: Iterable[Segment]) -> None:
        """Forget other segments, and write the file anew once it has grown beyond use."""
        kept = set(wanted)
        self.times = {segment: at for segment, at in self.times.items() if segment in kept}
        if self._entries > 2 * len(self.times) + _KEPT_BESIDE:
            body = b"".join(_entry(segment, at) for segment, at in self.times.items())
            with contextlib.suppress(OSError):
                durable.write_file(self._path, self._head() + body)
                self._entries = len(self.times)

    def _append(self, entry: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            size_bytes = os.fstat(fd).st_size
            torn_bytes = (size_bytes - _HEAD.size) % _ENTRY.size
            if size_bytes == 0 or self._entries == 0:
                # New, or nothing in it could be read.
                os.ftruncate(fd, 0)
                durable.write_all(fd, self._head())
            elif torn_bytes:
                os.ftruncate(fd, size_bytes - torn_bytes)
            durable.write_all(fd, entry)
        finally:
            os.close(fd)
        self._entries += 1

    def _head(self) -> bytes:
        line = self._line
        return _HEAD.pack(_MAGIC, _VERSION, line.segment_bytes, line.system_identifier)


def _entry(segment: Segment, found: LastCommit | None) -> bytes:
    timeline, start = segment
    flags, lsn, time = (0, 0, 0) if found is None else (_HAS_COMMIT, found.end_lsn, found.time)
    made = _ENTRY.pack(timeline, flags, start, lsn, time, 0)
    checksum = crc32c.crc32c(made[:_CHECKED_BYTES])
    return _ENTRY.pack(timeline, flags, start, lsn, time, checksum)
