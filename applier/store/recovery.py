"""What a store directory holds, found out from the files alone after any crash.

Only two things are believed: a file under a segment's full name and of its full size (it got
the name after its bytes were synced), and a slot whose CRC-32C matches the bytes it speaks of.
Whatever else stands in a preallocated file, page headers that look right included, is left
over from before and not counted.

`Recovery.run` also finishes what a crash interrupted (steps are listed in
docs/store-format.md); each step may be repeated, so a crash during recovery is no new case.
With `repair=False` it only looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import crc32c

from applier.store import layout
from applier.store.pages import PageScan
from applier.store.positions import ChainPositions, Fits
from logship import wal
from logship.durable import Disk
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position

_CHUNK_BYTES = 1 << 20


class Tail(NamedTuple):
    """The partial segment that writing goes on in."""

    timeline: int
    start_lsn: Lsn
    end_lsn: Lsn
    data_crc32c: int
    sequence: int
    """Highest one seen in either slot; the next slot must be above it."""
    slot: int
    """Index of the slot that holds; the next one goes into the other."""


class Recovered(NamedTuple):
    positions: ChainPositions
    tail: Tail | None
    """None: the next byte starts a segment."""
    scan: PageScan
    """Page check state at the written position."""


class Recovery:
    """One look over the files of one chain; those named in `ignore` are on their way out."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        line: wal.WalLine,
        histories: Mapping[int, wal.History],
        *,
        ignore: frozenset[str] = frozenset(),
        repair: bool,
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._line = line
        self._histories = histories
        self._repair = repair
        self._files = {
            name: size for name, size in disk.list(directory).items() if name not in ignore
        }
        self._tails: dict[int, Tail] = {}

    def run(self, start: Position) -> Recovered:
        """Measure the chain that starts at `start`.

        Raises LogshipError(STORE_DAMAGED) if files prove that bytes once reported durable are
        gone, and OSError from the disk.
        """
        positions = ChainPositions(start, self._line.segment_bytes)
        self._walk(positions, start.timeline, start.lsn)
        for timeline in sorted(self._histories):
            if timeline <= positions.written.timeline:
                continue
            ancestors = self._histories[timeline].ancestors
            if not ancestors:
                continue
            first = wal.segment_start(ancestors[-1].end_lsn, self._line.segment_bytes)
            verdict = positions.accept(timeline, first, 1, self._histories)
            if isinstance(verdict, Fits):
                self._walk(positions, timeline, first)
        self._refuse_strays(positions)
        positions.hardened(positions.written)
        written = positions.written
        tail = self._tails.get(written.timeline)
        return Recovered(positions, tail, self._scan_at(tail))

    def _walk(self, positions: ChainPositions, timeline: int, lsn: Lsn) -> None:
        size = self._line.segment_bytes
        first = lsn
        while True:
            name = wal.segment_name(timeline, lsn, size)
            if self._is_complete(name, timeline, lsn):
                lsn = wal.segment_end(lsn, size)
                continue
            tail = self._read_partial(name, timeline, lsn)
            if tail is None or tail.end_lsn == lsn:
                break
            lsn = tail.end_lsn
            if lsn % size:
                self._tails[timeline] = tail
                break
        if lsn > first:
            positions.advance(timeline, first, lsn)

    def _is_complete(self, name: str, timeline: int, lsn: Lsn) -> bool:
        """Whether the whole segment is there; finishes its completion if that was cut short."""
        size = self._line.segment_bytes
        partial = name + layout.PARTIAL_SUFFIX
        if name in self._files:
            if self._files[name] == size + layout.TAIL_BYTES:
                # The cut was lost, by a sync that failed, and the later rename was not.
                self._cut_tail(name)
            if self._files[name] != size:
                raise self._damaged(f"{name} has {self._files[name]} bytes instead of {size}")
            if partial in self._files and self._repair:
                # No crash of ours leaves both; a copied-back file may.
                move_aside(self._disk, self._directory, partial, layout.REFUSED_DIRECTORY)
                del self._files[partial]
            return True
        if self._files.get(partial) != size:
            return False
        # Partial files are born with their tail, and it is cut off only after the segment was
        # synced: this one only lacks its name.
        self._check_whole(partial, timeline, lsn)
        if self._repair:
            self._disk.rename(self._directory / partial, self._directory / name)
            del self._files[partial]
            self._files[name] = size
        return True

    def _cut_tail(self, name: str) -> None:
        size = self._line.segment_bytes
        if self._repair:
            fd = self._open(name)
            try:
                self._disk.truncate(fd, size)
                self._disk.datasync(fd)
            finally:
                self._disk.close(fd)
        self._files[name] = size

    def _check_whole(self, name: str, timeline: int, lsn: Lsn) -> None:
        fd = self._open(name)
        try:
            scan = PageScan()
            for offset in range(0, self._line.segment_bytes, _CHUNK_BYTES):
                data = self._disk.pread(fd, _CHUNK_BYTES, offset)
                scan = scan.advance(data, lsn + offset, timeline, self._line)
            if self._repair:
                self._disk.datasync(fd)
        except LogshipError as error:
            raise self._damaged(f"{name}: {error.what}") from error
        finally:
            self._disk.close(fd)

    def _read_partial(self, name: str, timeline: int, lsn: Lsn) -> Tail | None:
        """The counted part of NAME.partial; completes it if that is all of the segment."""
        partial = name + layout.PARTIAL_SUFFIX
        size = self._line.segment_bytes
        if partial not in self._files:
            return None
        fd = self._open(partial)
        try:
            # A process that was killed, unlike a machine, leaves bytes in the cache that match
            # their slot and are on no disk; one that stopped on a failed sync leaves bytes that
            # the kernel calls clean.  So: sync, then forget the cache, then read.
            if self._repair:
                self._disk.datasync(fd)
                self._disk.drop_cache(fd)
            tail = self._trusted(fd, partial, timeline, lsn)
            if self._repair and tail.end_lsn == lsn + size:
                self._disk.truncate(fd, size)
                self._disk.datasync(fd)
        finally:
            self._disk.close(fd)
        if self._repair and tail.end_lsn == lsn + size:
            self._disk.rename(self._directory / partial, self._directory / name)
            del self._files[partial]
            self._files[name] = size
        elif self._repair and tail.end_lsn == lsn:
            self._disk.remove(self._directory / partial)
            del self._files[partial]
        return tail

    def _trusted(self, fd: int, name: str, timeline: int, lsn: Lsn) -> Tail:
        slots = self._slots(fd, timeline, lsn)
        highest = max((slot.sequence for slot in slots.values()), default=0)
        for index, slot in sorted(slots.items(), key=lambda item: -item[1].sequence):
            if self._checksum(fd, slot.end_lsn - lsn) == slot.data_crc32c:
                return Tail(timeline, lsn, slot.end_lsn, slot.data_crc32c, highest, index)
        # A partial file is born with a durable slot, and a slot is overwritten only after
        # the other one was synced: no crash makes this.
        raise self._damaged(f"{name}: no slot in its tail matches its bytes")

    def _slots(self, fd: int, timeline: int, lsn: Lsn) -> dict[int, layout.Slot]:
        tail = self._disk.pread(fd, layout.TAIL_BYTES, self._line.segment_bytes)
        slots = {}
        for index in range(2):
            data = tail[index * layout.SLOT_BYTES : (index + 1) * layout.SLOT_BYTES]
            slot = layout.decode_slot(data, timeline, lsn, self._line)
            if slot is not None:
                slots[index] = slot
        return slots

    def _checksum(self, fd: int, size_bytes: int) -> int:
        checksum = 0
        for offset in range(0, size_bytes, _CHUNK_BYTES):
            data = self._disk.pread(fd, min(_CHUNK_BYTES, size_bytes - offset), offset)
            checksum = crc32c.crc32c(data, checksum)
        return checksum

    def _refuse_strays(self, positions: ChainPositions) -> None:
        """No file above the chain's end may hold counted bytes: that would mean that bytes
        reported durable before them are gone.  Empty partial files are removed."""
        size = self._line.segment_bytes
        for name in sorted(self._files):
            stem = name.removesuffix(layout.PARTIAL_SUFFIX)
            try:
                timeline, lsn = wal.parse_segment_name(stem, size)
            except ValueError:
                continue
            extent = positions.extents.get(timeline)
            if timeline < positions.start.timeline or (extent and lsn < extent.end):
                continue
            if name != stem:
                tail = self._read_partial(stem, timeline, lsn)
                if tail is None or tail.end_lsn == lsn:
                    continue
            held = positions.end_of(timeline)
            ends = f"ends at {held}" if held is not None else "can't be joined to the chain"
            raise self._damaged(f"{name} is there, but timeline {timeline} {ends}")

    def _scan_at(self, tail: Tail | None) -> PageScan:
        if tail is None:
            return PageScan()
        size = tail.end_lsn % wal.WAL_PAGE_BYTES
        fd = self._open(
            layout.partial_name(tail.timeline, tail.start_lsn, self._line.segment_bytes)
        )
        try:
            page = self._disk.pread(fd, size, tail.end_lsn - size - tail.start_lsn)
        finally:
            self._disk.close(fd)
        return PageScan.resume(page)

    def _open(self, name: str) -> int:
        return self._disk.open(self._directory / name, read_only=not self._repair)

    def _damaged(self, why: str) -> LogshipError:
        return damaged(self._directory, why)


def damaged(directory: Path, why: str) -> LogshipError:
    return LogshipError(
        Code.STORE_DAMAGED,
        f"the store {directory} has lost bytes that it had reported durable: {why}",
        "restore the file if you have it; else move the directory aside and seed again",
    )


def move_aside(disk: Disk, directory: Path, name: str, into: str) -> None:
    """Move a file into a subdirectory, under a name that is free there."""
    target_directory = directory / into
    disk.make_directory(target_directory)
    taken = disk.list(target_directory)
    target = name
    number = 0
    while target in taken:
        number += 1
        target = f"{name}.{number}"
    disk.rename(directory / name, target_directory / target)
