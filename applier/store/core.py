"""One store, synchronously: chains, histories, spans in, bytes out.

`StoreCore` is everything a store does except threads, so that a simulation can run it over a
simulated disk; `store.Store` puts it under asyncio.  Methods may overlap only as
`segments.SegmentFiles` says; `read` may be called beside anything.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import crc32c
import structlog

from applier.store import layout, positions, segments
from applier.store.pages import PageScan
from applier.store.positions import ChainPositions
from applier.store.recovery import Recovery, damaged
from applier.store.refusals import refusal, removed, unusable
from logship import wal
from logship.durable import Bytes, Disk
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position

_log = structlog.get_logger(__name__)

_MAX_REFUSED_FILES = 64
"""Spans kept aside as evidence; a sender that goes on must not fill the disk with them."""
_MAX_READERS = 8


class StoreCore:
    """The state of an open store.  Made by `open_store`."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        line: wal.WalLine,
        *,
        keep_free_bytes: int,
        read_only: bool,
    ) -> None:
        self.directory = directory
        self.line = line
        self.read_only = read_only
        self.positions: ChainPositions | None = None
        self.chains: list[layout.Chain] = []
        self.histories: dict[int, wal.History] = {}
        self.history_contents: dict[int, bytes] = {}
        self.segments = segments.SegmentFiles(
            disk, directory, line, keep_free_bytes=keep_free_bytes
        )
        self._disk = disk
        self._scan = PageScan()
        self._readers: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._readers_lock = threading.Lock()

    # --- opening ----------------------------------------------------------------------------

    def recover(self) -> None:
        """Find out what the directory holds, and unless read-only finish what was cut short.

        Raises LogshipError (STORE_DAMAGED, another cluster's directory) and OSError.
        """
        repair = not self.read_only
        if repair:
            self._disk.sync_directory(self.directory)
        names = self._disk.list(self.directory)
        self._load_histories(names)
        content = self._disk.read_file(self.directory / layout.CHAINS_NAME)
        if content is None:
            if any(_is_wal(name, self.line.segment_bytes) for name in names):
                raise damaged(self.directory, f"{layout.CHAINS_NAME} is missing")
        else:
            where = self.directory / layout.CHAINS_NAME
            record = layout.decode_chains(content, where)
            layout.check_line(record.line, self.line, self.directory)
            self.chains = record.chains
        if repair:
            self._finish_setting_aside()
            for name in names:
                if name == layout.SPARE_NAME or name.endswith(layout.NEW_SUFFIX):
                    self._disk.remove(self.directory / name)
        if self.chains:
            self._recover_chain(repair)

    def _load_histories(self, names: dict[str, int]) -> None:
        for name in names:
            try:
                timeline = wal.parse_history_name(name)
            except ValueError:
                continue
            content = self._disk.read_file(self.directory / name)
            assert content is not None
            try:
                self.histories[timeline] = wal.parse_history(timeline, content)
            except LogshipError as error:
                raise damaged(self.directory, f"{name}: {error.what}") from error
            self.history_contents[timeline] = content

    def _recover_chain(self, repair: bool) -> None:
        chain = self.chains[-1]
        start = wal.segment_start(chain.lsn, self.line.segment_bytes)
        histories = {
            timeline: history
            for timeline, history in self.histories.items()
            if wal.history_name(timeline) not in chain.set_aside
        }
        recovery = Recovery(
            self._disk,
            self.directory,
            self.line,
            histories,
            ignore=frozenset(chain.set_aside),
            repair=repair,
        )
        found = recovery.run(Position(chain.timeline, start))
        self.positions = found.positions
        self._scan = found.scan
        if found.tail is not None and repair:
            self.segments.adopt(found.tail)

    # --- chains and histories ---------------------------------------------------------------

    def begin_chain(
        self, timeline: int, start_lsn: int, *, seed_id: str, started_at: float
    ) -> None:
        """Start a chain at the segment start of `start_lsn`; everything written is durable.

        If the current chain holds that place on that timeline, its bytes from there on are
        kept, as the same place of one cluster's WAL has the same bytes.  Otherwise whatever
        files stand at or above it are set aside, so that none of them can be mistaken for
        bytes of this chain.  The same call again changes nothing.
        """
        self._check_writable()
        if self.chains:
            last = self.chains[-1]
            if (last.timeline, last.lsn, last.seed_id) == (timeline, start_lsn, seed_id):
                return
        start = Position(timeline, wal.segment_start(start_lsn, self.line.segment_bytes))
        chain = layout.Chain(
            timeline=timeline,
            start_lsn=str(Lsn(start_lsn)),
            started_at=started_at,
            seed_id=seed_id,
        )
        held = self.positions
        keep = held is not None and held.continues_at(start)
        if not keep:
            chain = _with_set_aside(chain, self._superseded_by(start))
        chains = [*self.chains, chain]
        self._write_file(layout.CHAINS_NAME, layout.encode_chains(self.line, chains))
        self.chains = chains
        if held is not None and keep:
            self.positions = held.restarted_at(start)
            return
        self.segments.close()
        self._close_readers()
        try:
            self._finish_setting_aside()
        except OSError as error:
            raise self.segments.fail(error, self.directory) from error
        self.positions = ChainPositions(start, self.line.segment_bytes)
        self._scan = PageScan()
        self.segments.want_spare()

    def _superseded_by(self, start: Position) -> list[str]:
        """Files that recovery could take for the new chain's."""
        names = []
        for name in self._disk.list(self.directory):
            place = _parse_wal_name(name, self.line.segment_bytes)
            if place is not None:
                timeline, lsn = place
                later = timeline > start.timeline
                if later or (timeline == start.timeline and lsn >= start.lsn):
                    names.append(name)
        names += [wal.history_name(tli) for tli in self.histories if tli > start.timeline]
        return sorted(names)

    def _finish_setting_aside(self) -> None:
        if not self.chains or not self.chains[-1].set_aside:
            return
        number = len(self.chains) - 1
        directory = self.directory / layout.SUPERSEDED_DIRECTORY / str(number)
        self._disk.make_directory(directory)
        present = self._disk.list(self.directory)
        for name in self.chains[-1].set_aside:
            if name in present:
                self._disk.rename(self.directory / name, directory / name)
        for timeline in list(self.histories):
            if timeline > self.chains[-1].timeline:
                del self.histories[timeline], self.history_contents[timeline]
        self.chains[-1] = _with_set_aside(self.chains[-1], [])
        content = layout.encode_chains(self.line, self.chains)
        self._disk.write_file(self.directory / layout.CHAINS_NAME, content)

    def add_history(self, timeline: int, content: bytes) -> None:
        """Keep a timeline's history, durably.  The same content again is fine.

        Raises LogshipError: BAD_HISTORY, HISTORY_CONFLICT (other content is held; it stays),
        DISK_FULL, STORE_FAILED.
        """
        self._check_writable()
        if timeline < 2:
            raise LogshipError(Code.BAD_HISTORY, f"timeline {timeline} has no history")
        history = wal.parse_history(timeline, content)
        held = self.history_contents.get(timeline)
        if held == content:
            return
        name = wal.history_name(timeline)
        if held is not None:
            self._keep_aside(name, content)
            raise LogshipError(
                Code.HISTORY_CONFLICT,
                f"another history of timeline {timeline} is held already",
                "two servers were promoted to the same timeline: find out which one this "
                "instance follows, and seed again from it under a new instance name",
            )
        self._write_file(name, content)
        self.history_contents[timeline] = content
        self.histories[timeline] = history

    # --- writing ----------------------------------------------------------------------------

    def write(self, timeline: int, start: int, data: Bytes) -> Position:
        """`Store.append`, synchronously."""
        self._check_writable()
        chain = self.positions
        if chain is None:
            raise LogshipError(
                Code.WAL_GAP, "the store is empty: no WAL fits before a seed has begun"
            )
        view = memoryview(data).cast("B")
        verdict = chain.accept(timeline, start, len(view), self.histories)
        match verdict:
            case positions.Fits():
                known_bytes = 0
            case positions.Repeats():
                known_bytes = len(view)
            case positions.Overlaps(known_bytes):
                pass
            case positions.BelowStart():
                return chain.written
            case _:
                raise refusal(verdict, timeline, start, len(view))
        self._compare(timeline, start, view[:known_bytes], timeline)
        new = view[known_bytes:]
        if new:
            self._write_new(chain, timeline, start + known_bytes, new)
        return chain.written

    def _write_new(self, chain: ChainPositions, timeline: int, start: int, new: memoryview) -> None:
        end = start + len(new)
        scan = self._scan if start % self.line.segment_bytes else PageScan()
        scan = scan.advance(new, start, timeline, self.line)
        copied = chain.copied_from_parent(timeline, start, end, self.histories.get(timeline))
        if copied is not None:
            parent, (shared_start, shared_end) = copied
            part = new[shared_start - start : shared_end - start]
            self._compare(timeline, shared_start, part, parent)
        written = self.segments.write(timeline, start, new)
        chain.advance(timeline, start, end)
        self.segments.publish(written)
        self._scan = scan

    def _compare(self, timeline: int, start: int, offered: memoryview, held_on: int) -> None:
        if not offered:
            return
        try:
            held = self.segments.stored(held_on, start, len(offered))
        except OSError as error:
            raise LogshipError(
                Code.STORE_FAILED,
                f"WAL at {Lsn(start)} can't be read back: {error.strerror}",
                "look at the disk (dmesg)",
            ) from error
        if held == offered:
            return
        pairs = zip(held, offered, strict=False)
        same_bytes = next((i for i, (a, b) in enumerate(pairs) if a != b), len(held))
        checksum = crc32c.crc32c(offered)
        name = f"{timeline:08X}-{int(start):016X}-{checksum:08X}"
        self._keep_aside(name, bytes(offered))
        place = Lsn(start + same_bytes)
        _log.error(
            "WAL differs from what is stored",
            directory=str(self.directory),
            timeline=timeline,
            lsn=str(place),
            span_bytes=len(offered),
            kept_as=name,
        )
        raise LogshipError(
            Code.WAL_CONFLICT,
            f"the bytes at {place} of timeline {timeline} differ from those stored",
            "nothing was overwritten; the offered bytes are in the store's refused/ directory. "
            "Two servers write the same timeline, or the primary was set back: find out which",
        )

    def _keep_aside(self, name: str, content: bytes) -> None:
        directory = self.directory / layout.REFUSED_DIRECTORY
        try:
            self._disk.make_directory(directory)
            names = self._disk.list(directory)
            if name not in names and len(names) < _MAX_REFUSED_FILES:
                self._disk.write_file(directory / name, content)
        except OSError as error:
            _log.warning("refused bytes not kept", name=name, reason=error.strerror)

    def hardened(self, position: Position | None) -> Position | None:
        """Record what `segments.run_flush` returned; gives the durable position."""
        if self.positions is None:
            return None
        if position is not None:
            self.positions.hardened(position)
        return self.positions.durable

    # --- reading ----------------------------------------------------------------------------

    def read(self, timeline: int, lsn: int, max_bytes: int) -> bytes:
        """`Store.read`."""
        available = self._available_bytes(timeline, lsn)
        size_bytes = min(max_bytes, available, wal.segment_end(lsn, self.line.segment_bytes) - lsn)
        if size_bytes <= 0:
            return b""
        with self._readers_lock:
            fd = self._reader(timeline, wal.segment_start(lsn, self.line.segment_bytes))
            data = self._disk.pread(fd, size_bytes, lsn % self.line.segment_bytes)
        if len(data) != size_bytes:
            name = wal.segment_name(timeline, lsn, self.line.segment_bytes)
            raise damaged(self.directory, f"{name} is shorter than it was")
        return data

    def _available_bytes(self, timeline: int, lsn: int) -> int:
        chain = self.positions
        if chain is None:
            raise removed(timeline, lsn)
        extent = chain.extents.get(timeline)
        if extent is not None and lsn >= extent.start:
            return extent.end - lsn
        if timeline > chain.written.timeline:
            return 0
        # Of earlier chains whole segments are served as long as they are there.
        start = wal.segment_start(lsn, self.line.segment_bytes)
        if (timeline, start) not in self._readers:
            path = self.directory / wal.segment_name(timeline, start, self.line.segment_bytes)
            try:
                self._disk.close(self._disk.open(path, read_only=True))
            except FileNotFoundError as error:
                raise removed(timeline, lsn) from error
        return self.line.segment_bytes

    def _reader(self, timeline: int, start: int) -> int:
        key = (timeline, start)
        fd = self._readers.get(key)
        if fd is None:
            opened = segments.open_stored(self._disk, self.directory, self.line, timeline, start)
            if opened is None:
                raise removed(timeline, start)
            fd = self._readers[key] = opened
            if len(self._readers) > _MAX_READERS:
                self._disk.close(self._readers.popitem(last=False)[1])
        else:
            self._readers.move_to_end(key)
        return fd

    def _close_readers(self) -> None:
        with self._readers_lock:
            for fd in self._readers.values():
                self._disk.close(fd)
            self._readers.clear()

    def close(self) -> None:
        """Close all files.  Syncs nothing: what is not durable was not reported as such."""
        self.segments.close()
        self._close_readers()

    def _write_file(self, name: str, content: bytes) -> None:
        try:
            self._disk.write_file(self.directory / name, content)
        except OSError as error:
            raise self.segments.explained(error, self.directory / name) from error

    def _check_writable(self) -> None:
        if self.read_only:
            raise LogshipError(
                Code.STORE_LOCKED,
                f"the store {self.directory} is open for inspection only",
                "open it for writing, which the applier does",
            )
        self.segments.check_usable()


def _with_set_aside(chain: layout.Chain, set_aside: list[str]) -> layout.Chain:
    return layout.Chain(
        timeline=chain.timeline,
        start_lsn=chain.start_lsn,
        started_at=chain.started_at,
        seed_id=chain.seed_id,
        set_aside=set_aside,
    )


def _parse_wal_name(name: str, segment_bytes: int) -> tuple[int, Lsn] | None:
    try:
        return wal.parse_segment_name(name.removesuffix(layout.PARTIAL_SUFFIX), segment_bytes)
    except ValueError:
        return None


def _is_wal(name: str, segment_bytes: int) -> bool:
    return _parse_wal_name(name, segment_bytes) is not None


def open_store(
    disk: Disk,
    directory: Path,
    line: wal.WalLine | None,
    *,
    keep_free_bytes: int,
    read_only: bool = False,
) -> StoreCore:
    """Open and recover the store in `directory`; the caller holds its lock.

    Raises LogshipError as `Store.open` does.
    """
    try:
        if line is None:
            where = directory / layout.CHAINS_NAME
            content = disk.read_file(where)
            if content is None:
                raise LogshipError(
                    Code.STORE_DAMAGED, f"{directory} holds no store", "check the path"
                )
            line = layout.decode_chains(content, where).line
        core = StoreCore(
            disk, directory, line, keep_free_bytes=keep_free_bytes, read_only=read_only
        )
        core.recover()
    except OSError as error:
        raise unusable(error, directory) from error
    return core
