"""Writing segments and making them durable: the store's synchronous core.

All I/O goes through `Disk`, nothing here knows of threads' owners, tasks or time: `store.Store`
calls it from its threads, a simulation calls it directly.  What may run at once: one `write`
(or `begin_chain`), one `run_flush`, one `make_spare`, and any number of `stored` readers.

Preallocation, measured (8 KiB pwrite + slot + fdatasync, ext4 on virtio, 300 rounds, three
runs each; p50 / p99 in µs): growing file, without slot, 214-301 / 339-478; posix_fallocate
223-240 / 352-395; zero-filled 150-172 / 248-337.  Beside other work on the same disk the p50s
were 436-4000, 2302-3996 and 362-3835.  A fallocated extent must still be converted when it is first
written, which costs each fdatasync a journal commit; a zero-filled one has nothing to convert.
Zero-filling writes everything twice, though, so it is done beside the road (`make_spare`) and
only where flushes are small, which is where latency counts; under bulk load segments are
fallocated only.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from applier.store import layout
from applier.store.recovery import Tail
from logship import wal
from logship.durable import DISK_FULL_ERRNOS, Disk
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position

_SMALL_FLUSH_BYTES = 128 * 1024
_MAX_SPARE_BYTES = 64 << 20
"""Larger segments are rotated so rarely that their creation is not worth hiding."""


class Mark(NamedTuple):
    """An end of bytes and the CRC-32C of the segment up to it; always replaced as one."""

    end_lsn: Lsn
    data_crc32c: int


class OpenSegment:
    """A segment that is being written, or waits for the sync that completes it."""

    def __init__(self, fd: int, path: Path, tail: Tail) -> None:
        self.fd = fd
        self.path = path
        self.timeline = tail.timeline
        self.start_lsn = tail.start_lsn
        self.mark = Mark(tail.end_lsn, tail.data_crc32c)
        """Written.  The writer replaces it, the flusher reads it."""
        self.synced_lsn = tail.end_lsn
        self.sequence = tail.sequence
        self.slot = tail.slot
        """Index of the last synced slot; changed by the flusher only."""
        self.flushes = 0


class Written(NamedTuple):
    """Bytes that are in the file and do not count yet."""

    segment: OpenSegment
    mark: Mark


class Flush(NamedTuple):
    """What one group flush will make durable, oldest first."""

    marks: list[tuple[OpenSegment, Mark]]


class SegmentFiles:
    """The segments of one store that are open for writing."""

    def __init__(
        self, disk: Disk, directory: Path, line: wal.WalLine, *, keep_free_bytes: int
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._line = line
        self._keep_free_bytes = keep_free_bytes
        self._segments: list[OpenSegment] = []
        """Oldest first; the last may be the one being written.  The writer appends, the
        flusher removes."""
        self._current: OpenSegment | None = None
        self._spare_lock = threading.Lock()
        self._spare_ready = False
        self._spare_wanted = False
        self.failure: LogshipError | None = None
        """Set by the first error that leaves it unknown what is on the disk: nothing is
        written or synced again until the store is reopened, which looks at the files."""

    def adopt(self, tail: Tail) -> None:
        """Go on writing in a recovered partial segment.  Raises OSError."""
        name = layout.partial_name(tail.timeline, tail.start_lsn, self._line.segment_bytes)
        path = self._directory / name
        self._current = OpenSegment(self._disk.open(path), path, tail)
        self._segments.append(self._current)

    def check_usable(self) -> None:
        """Raise the error that stopped this store, if one did."""
        if self.failure is not None:
            raise self.failure

    def opens_segment(self, timeline: int, start: int) -> bool:
        """Whether writing at `start` takes a new file: milliseconds, so best in a thread."""
        current = self._current
        return current is None or (current.timeline, current.mark.end_lsn) != (timeline, start)

    # --- writing ----------------------------------------------------------------------------

    def write(self, timeline: int, start: int, data: memoryview) -> Written:
        """Write new bytes, all of one segment, where the last ones ended or a segment starts.

        They count only once the caller has moved its position and called `publish`.  Raises
        LogshipError: DISK_FULL (nothing counts as written; the same call may succeed later) or
        STORE_FAILED (this store is dead until reopened).
        """
        self.check_usable()
        segment = self._current
        created = segment is None or self.opens_segment(timeline, start)
        if segment is None or created:
            assert start % self._line.segment_bytes == 0
            segment = self._create(timeline, Lsn(start))
        offset = start - segment.start_lsn
        written = 0
        try:
            while written < len(data):
                written += self._disk.pwrite(segment.fd, data[written:], offset + written)
        except OSError as error:
            # Bytes that did get written stand past the mark, where nobody looks.
            if created:
                self._discard(segment.fd, segment.path)
            raise self.explained(error, segment.path) from error
        checksum = crc32c(data, segment.mark.data_crc32c)
        return Written(segment, Mark(Lsn(start + len(data)), checksum))

    def publish(self, written: Written) -> None:
        """Let the next flush see what `write` wrote."""
        segment, mark = written
        segment.mark = mark
        if segment is not self._current:
            self._segments.append(segment)
        filled_bytes = mark.end_lsn - segment.start_lsn
        if filled_bytes == self._line.segment_bytes:
            self._current = None
            return
        self._current = segment
        # Decided in the second half only, so that an idle store does not keep a spare.
        if filled_bytes * 2 > self._line.segment_bytes:
            self._spare_wanted = filled_bytes < segment.flushes * _SMALL_FLUSH_BYTES

    def _create(self, timeline: int, start: Lsn) -> OpenSegment:
        """A new partial segment: preallocated, with a durable slot that claims no bytes."""
        path = self._directory / layout.partial_name(timeline, start, self._line.segment_bytes)
        slot = layout.Slot(timeline, start, start, 1, 0)
        fd = -1
        source = path.with_suffix(layout.NEW_SUFFIX)
        try:
            if self._take_spare():
                source = self._directory / layout.SPARE_NAME
                fd = self._disk.open(source)
            else:
                fd = self._allocate(source, zero_fill=False)
            self._write_slot(fd, 0, slot)
            self._disk.datasync(fd)
            self._disk.rename(source, path)
        except OSError as error:
            if fd >= 0:
                self._discard(fd, source)
            raise self.explained(error, path) from error
        return OpenSegment(fd, path, Tail(timeline, start, start, 0, 1, 0))

    def _take_spare(self) -> bool:
        if not self._spare_ready:
            return False
        self._check_room(0)
        with self._spare_lock:
            self._spare_ready = False
            self._spare_wanted = False
        return True

    def _allocate(self, path: Path, *, zero_fill: bool) -> int:
        size_bytes = self._line.segment_bytes + layout.TAIL_BYTES
        self._check_room(size_bytes)
        self._disk.remove(path)  # of an attempt before
        fd = self._disk.open(path, create=True)
        try:
            self._disk.allocate(fd, size_bytes, zero_fill=zero_fill)
        except OSError:
            self._discard(fd, path)
            raise
        return fd

    def _discard(self, fd: int, path: Path) -> None:
        self._disk.close(fd)
        try:
            self._disk.remove(path)
        except OSError:
            return  # the next attempt, or the next start, removes it

    def _check_room(self, needed_bytes: int) -> None:
        free_bytes = self._disk.free_bytes(self._directory)
        if free_bytes < self._keep_free_bytes + needed_bytes:
            raise LogshipError(
                Code.DISK_FULL,
                f"{self._directory} has {free_bytes} bytes free; the next segment takes "
                f"{needed_bytes} and {self._keep_free_bytes} are to stay free",
                "make room; receiving goes on by itself then",
                retryable=True,
            )

    # --- the spare --------------------------------------------------------------------------

    def want_spare(self) -> None:
        """Have a spare made: a quiet moment before the first bytes of a chain."""
        self._spare_wanted = True

    @property
    def spare_wanted(self) -> bool:
        """Whether `make_spare` should be called, beside the writing."""
        return (
            self._spare_wanted
            and not self._spare_ready
            and self.failure is None
            and self._line.segment_bytes <= _MAX_SPARE_BYTES
        )

    def make_spare(self) -> None:
        """Zero-fill the file that will become the next segment.  Best effort: without one
        the next segment is made when it is needed, and reports what is wrong then."""
        self._spare_wanted = False
        path = self._directory / layout.SPARE_NAME
        try:
            fd = self._allocate(path, zero_fill=True)
            try:
                self._disk.datasync(fd)
            except OSError:
                self._discard(fd, path)
                return
            self._disk.close(fd)
        except (OSError, LogshipError):
            return
        with self._spare_lock:
            self._spare_ready = True

    # --- flushing ---------------------------------------------------------------------------

    def prepare_flush(self) -> Flush:
        """Snapshot what is written and not durable.  No I/O; safe beside a running write."""
        segments = list(self._segments)
        marks = [(segment, segment.mark) for segment in segments]
        return Flush([(segment, mark) for segment, mark in marks if self._is_due(segment, mark)])

    def _is_due(self, segment: OpenSegment, mark: Mark) -> bool:
        return mark.end_lsn > segment.synced_lsn

    def run_flush(self, flush: Flush) -> Position | None:
        """Make `flush` durable; returns the position up to which everything now is.

        One at a time.  Raises LogshipError(STORE_FAILED) on any error: what is on the disk
        is then unknown, and this store is dead until reopened.
        """
        self.check_usable()
        position = None
        for segment, mark in flush.marks:
            self.check_usable()
            try:
                if mark.end_lsn == segment.start_lsn + self._line.segment_bytes:
                    self._complete(segment)
                else:
                    self._sync_partial(segment, mark)
            except OSError as error:
                raise self.fail(error, segment.path) from error
            segment.synced_lsn = mark.end_lsn
            segment.flushes += 1
            position = Position(segment.timeline, mark.end_lsn)
            self._retire()
        return position

    def _sync_partial(self, segment: OpenSegment, mark: Mark) -> None:
        # The slot goes over the older of the two, never over the one that holds: a crash may
        # tear it.  Sequence numbers seen before a crash are not used again.
        slot = 1 - segment.slot
        sequence = segment.sequence + 1
        claim = layout.Slot(
            segment.timeline, segment.start_lsn, mark.end_lsn, sequence, mark.data_crc32c
        )
        self._write_slot(segment.fd, slot, claim)
        self._disk.datasync(segment.fd)
        segment.slot = slot
        segment.sequence = sequence

    def _complete(self, segment: OpenSegment) -> None:
        # Recovery takes a partial file without its tail, or a file under the full name, for
        # whole: so the bytes first, then the tail, then the name.
        self._disk.datasync(segment.fd)
        self._disk.truncate(segment.fd, self._line.segment_bytes)
        self._disk.datasync(segment.fd)
        path = segment.path.with_suffix("")
        self._disk.rename(segment.path, path)
        segment.path = path

    def _retire(self) -> None:
        """Close what is written no more and synced to its end: a full segment is complete, one
        whose timeline was left stays partial for ever."""
        for segment in list(self._segments):
            full = segment.synced_lsn == segment.start_lsn + self._line.segment_bytes
            # The last one may be about to become the current one.
            left = segment is not self._current and segment is not self._segments[-1]
            if full or (left and segment.synced_lsn == segment.mark.end_lsn):
                self._segments.remove(segment)
                self._disk.close(segment.fd)

    def _write_slot(self, fd: int, index: int, slot: layout.Slot) -> None:
        data = memoryview(layout.encode_slot(slot, self._line))
        offset = self._line.segment_bytes + index * layout.SLOT_BYTES
        while data:
            count = self._disk.pwrite(fd, data, offset)
            data = data[count:]
            offset += count

    # --- failing and closing ----------------------------------------------------------------

    def explained(self, error: OSError, path: Path) -> LogshipError:
        if error.errno in DISK_FULL_ERRNOS:
            return LogshipError(
                Code.DISK_FULL,
                f"no room to write {path}: {error.strerror}",
                "make room; receiving goes on by itself then",
                retryable=True,
            )
        return self.fail(error, path)

    def fail(self, error: OSError, path: Path) -> LogshipError:
        self.failure = LogshipError(
            Code.STORE_FAILED,
            f"writing {path} failed: {error.strerror or error}; nothing more is written to this "
            "store, as what the disk holds is unknown",
            "look at the disk (dmesg); the applier opens the store again by itself, reads the "
            "files anew and goes on from what is really there",
            retryable=True,
        )
        return self.failure

    def close(self) -> None:
        """Close the files; syncs nothing.  No write or flush may be running."""
        self._current = None
        for segment in self._segments:
            self._disk.close(segment.fd)
        self._segments.clear()

    def stored(self, timeline: int, start: int, size_bytes: int) -> bytes:
        """Bytes from disk that the caller knows to be written, all of one segment."""
        return read_stored(self._disk, self._directory, self._line, timeline, start, size_bytes)


def open_stored(
    disk: Disk, directory: Path, line: wal.WalLine, timeline: int, start: int
) -> int | None:
    """A read-only handle on the file, complete or partial, of the segment at `start`."""
    path = directory / wal.segment_name(timeline, start, line.segment_bytes)
    partial = path.with_suffix(layout.PARTIAL_SUFFIX)
    for candidate in (path, partial, path):  # it may be completed between two looks
        try:
            return disk.open(candidate, read_only=True)
        except FileNotFoundError:
            continue
    return None


def read_stored(
    disk: Disk, directory: Path, line: wal.WalLine, timeline: int, start: int, size_bytes: int
) -> bytes:
    """As `SegmentFiles.stored`.  Raises FileNotFoundError if the file is gone."""
    fd = open_stored(disk, directory, line, timeline, start)
    if fd is None:
        raise FileNotFoundError(wal.segment_name(timeline, start, line.segment_bytes))
    try:
        return disk.pread(fd, size_bytes, start % line.segment_bytes)
    finally:
        disk.close(fd)
