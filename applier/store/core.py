"""One store, synchronously: chains, histories, spans in, bytes out.

`StoreCore` is everything a store does except threads, so that a simulation can run it over a
simulated disk; `store.Store` puts it under asyncio.  Methods may overlap only as
`segments.SegmentFiles` says; `read` may be called beside anything.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec

from applier.store import layout, positions, segments
from applier.store.evidence import Evidence
from applier.store.pages import PageScan
from applier.store.positions import ChainPositions, Extent
from applier.store.readers import Readers
from applier.store.reading import FileSlice
from applier.store.recovery import Recovery, damaged
from applier.store.refusals import refusal, removed, unreadable, unusable
from applier.store.removal import files_below, files_from, trimmed_chain, trimmed_entries
from applier.store.runs import Run, clipped, joined
from logship import wal
from logship.durable import Bytes, Disk
from logship.errors import Code, LogshipError
from logship.lsn import Lsn, Position


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
        self._earlier: list[dict[int, Extent]] = []
        """What each chain but the last held."""
        self.histories: dict[int, wal.History] = {}
        self.history_contents: dict[int, bytes] = {}
        self.segments = segments.SegmentFiles(
            disk, directory, line, keep_free_bytes=keep_free_bytes
        )
        self._disk = disk
        self._scan = PageScan()
        self._evidence = Evidence(disk, directory, self.segments)
        self._readers = Readers(disk, directory, line)
        self._readers_lock = threading.Lock()
        """Held while something is read, and while it changes what may be read."""

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
            if any(layout.parse_wal_name(name, self.line.segment_bytes) for name in names):
                raise damaged(self.directory, f"{layout.CHAINS_NAME} is missing")
        else:
            where = self.directory / layout.CHAINS_NAME
            record = layout.decode_chains(content, where)
            layout.check_line(record.line, self.line, self.directory)
            self._take_chains(record.chains)
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
        bytes of this chain.  What is left of the chains before is noted, and stays readable.
        The same call again changes nothing.
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
        kept: ChainPositions | None = None
        before = list(self.chains)
        if held is not None:
            before[-1] = before[-1].holding(held.durable_extents())
            if held.continues_at(start):
                kept = held.restarted_at(start)
        if kept is None:
            before = [entry.holding(clipped(entry.extents, start)) for entry in before]
            names = files_from(self._disk.list(self.directory), start, self.line.segment_bytes)
            names += [wal.history_name(tli) for tli in self.histories if tli > start.timeline]
            chain = msgspec.structs.replace(chain, set_aside=sorted(names))
        chains = [*before, chain]
        self._write_file(layout.CHAINS_NAME, layout.encode_chains(self.line, chains))
        if kept is not None:
            with self._readers_lock:
                self._take_chains(chains)
                self.positions = kept
            return
        self.segments.close()
        self._scan = PageScan()
        with self._readers_lock:
            # Before the files move: who reads from now on opens none of them again.
            self._take_chains(chains)
            self.positions = ChainPositions(start, self.line.segment_bytes)
            self._forget_histories_above(timeline)
            self._readers.close()
        try:
            self._finish_setting_aside()
        except OSError as error:
            raise self.segments.fail(error, self.directory) from error
        self.segments.want_spare()

    def _take_chains(self, chains: list[layout.Chain]) -> None:
        self.chains = chains
        self._earlier = [chain.extents for chain in chains[:-1]]

    def _forget_histories_above(self, timeline: int) -> None:
        # Replaced, not changed: another thread may be looking through them.
        self.histories = {tli: own for tli, own in self.histories.items() if tli <= timeline}
        self.history_contents = {
            tli: own for tli, own in self.history_contents.items() if tli <= timeline
        }

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
        self._forget_histories_above(self.chains[-1].timeline)
        last = msgspec.structs.replace(self.chains[-1], set_aside=[])
        chains = [*self.chains[:-1], last]
        content = layout.encode_chains(self.line, chains)
        self._disk.write_file(self.directory / layout.CHAINS_NAME, content)
        self._take_chains(chains)

    def remove_below(self, floors: Mapping[int, int]) -> list[str]:
        """`Store.remove_below`, synchronously; everything written is durable."""
        self._check_writable()
        before = self.positions
        if before is None:
            return []
        if any(floor % self.line.segment_bytes for floor in floors.values()):
            raise AssertionError(f"WAL is removed by segments, not below {floors}")
        after = trimmed_chain(before, floors)
        chains = trimmed_entries(self.chains, before, after, floors)
        kept = [after.extents, *(each.extents for each in chains[:-1])]
        names = self._disk.list(self.directory)
        going = files_below(names, floors, kept, self.line.segment_bytes)
        if chains != self.chains:
            # First: a crash leaves files that are not counted, and never the other way round.
            self._write_file(layout.CHAINS_NAME, layout.encode_chains(self.line, chains))
        with self._readers_lock:
            self._take_chains(chains)
            self.positions = after
            self._readers.close()
        for name in going:
            self._disk.remove(self.directory / name)
        return going

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
            self._evidence.keep_aside(name, content)
            raise LogshipError(
                Code.HISTORY_CONFLICT,
                f"another history of timeline {timeline} is held already",
                "two servers were promoted to the same timeline: find out which one this "
                "instance follows, and seed again from it under a new instance name",
            )
        self._write_file(name, content)
        self.history_contents = {**self.history_contents, timeline: content}
        self.histories = {**self.histories, timeline: history}

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
            case positions.Copied(parts):
                for holder, (part_start, part_end) in parts:
                    part = view[part_start - start : part_end - start]
                    self._evidence.compare(timeline, part_start, part, holder)
                return chain.written
            case _:
                raise refusal(verdict, timeline, start, len(view))
        self._evidence.compare(timeline, start, view[:known_bytes], timeline)
        new = view[known_bytes:]
        if new:
            self._write_new(chain, timeline, start + known_bytes, new)
        return chain.written

    def _write_new(self, chain: ChainPositions, timeline: int, start: int, new: memoryview) -> None:
        end = start + len(new)
        scan = self._scan if start % self.line.segment_bytes else PageScan()
        scan = scan.advance(new, start, timeline, self.line)
        copied = chain.copied(timeline, start, end, self.histories.get(timeline))
        for ancestor, (shared_start, shared_end) in copied:
            part = new[shared_start - start : shared_end - start]
            self._evidence.compare(timeline, shared_start, part, ancestor)
        written = self.segments.write(timeline, start, new)
        chain.advance(timeline, start, end)
        self.segments.publish(written)
        self._scan = scan

    def hardened(self, position: Position | None) -> Position | None:
        """Record what `segments.run_flush` returned; gives the durable position."""
        if self.positions is None:
            return None
        if position is not None:
            self.positions.hardened(position)
        return self.positions.durable

    # --- reading ----------------------------------------------------------------------------

    def shape(self) -> object:
        """`Store.shape`."""
        # Each is replaced when it changes, but for what a chain holds.
        chain = self.positions
        growing = None if chain is None else chain.growing
        return chain, growing, self._earlier, self.histories

    def runs(self) -> list[Run]:
        """`Store.runs`."""
        if self.positions is None:
            return []
        return joined([*self._earlier, self.positions.extents])[::-1]

    def durable_of(self, seed_id: str) -> Position | None:
        """`Store.durable_of`."""
        chain = next((chain for chain in self.chains[::-1] if chain.seed_id == seed_id), None)
        if chain is None or self.positions is None:
            return None
        segment = wal.segment_start(chain.lsn, self.line.segment_bytes)
        start = Position(chain.timeline, segment)
        current, *ended = self.runs()
        if chain is self.chains[-1] or current.reaches(start):
            return self.positions.durable
        return next((run.end for run in ended if run.reaches(start)), start)

    def read(self, timeline: int, lsn: int, max_bytes: int) -> bytes:
        """`Store.read`."""
        try:
            with self._readers_lock:
                return self._read(timeline, lsn, max_bytes)
        except OSError as error:
            raise unreadable(timeline, lsn, error) from error

    def share(self, timeline: int, lsn: int, max_bytes: int) -> FileSlice | None:
        """`Store.share`, of a store on a real disk."""
        try:
            with self._readers_lock:
                fd, size_bytes = self._find(timeline, lsn, max_bytes)
                if not size_bytes:
                    return None
                return FileSlice(fd, lsn % self.line.segment_bytes, size_bytes)
        except OSError as error:
            raise unreadable(timeline, lsn, error) from error

    def _find(self, timeline: int, lsn: int, max_bytes: int) -> tuple[int, int]:
        """A reader of the file that has `lsn`, and how many bytes there are to be read."""
        available = self._available_bytes(timeline, lsn)
        size_bytes = min(max_bytes, available, wal.segment_end(lsn, self.line.segment_bytes) - lsn)
        if size_bytes <= 0:
            return -1, 0
        return self._readers.of(
            timeline, wal.segment_start(lsn, self.line.segment_bytes)
        ), size_bytes

    def _read(self, timeline: int, lsn: int, max_bytes: int) -> bytes:
        fd, size_bytes = self._find(timeline, lsn, max_bytes)
        if not size_bytes:
            return b""
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
        # Of earlier chains: what they held, as long as its files are there.
        for run in self.runs():
            if run.reaches(Position(timeline, Lsn(lsn))):
                return run.extents[timeline].end - lsn
        if timeline > chain.written.timeline:
            return 0
        raise removed(timeline, lsn)

    def close(self) -> None:
        """Close all files.  Syncs nothing: what is not durable was not reported as such."""
        self.segments.close()
        with self._readers_lock:
            self._readers.close()

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
