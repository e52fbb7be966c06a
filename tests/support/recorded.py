"""A recorded history of a real cluster: its WAL, seeds from in between, and two journals: what
its clients were told, and what it says itself."""

from __future__ import annotations

import asyncio
import platform
import random
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psycopg

from applier.fleet.places import Volumes
from applier.operations.record import Heard, InstanceRecord, save_record
from applier.store import Store
from logship.bucket.documents import document_metadata, encode_profile, pack_document
from logship.bucket.keys import Keys, Place
from logship.bucket.seed_archive import PLAIN, Seals, SeedArchiveWriter, list_seeds
from logship.bucket.wal_objects import Head, Marker, metadata_of, pack
from logship.lsn import Lsn
from logship.objects import ObjectStore
from logship.objects.directory import DirectoryStore
from logship.postgres.control_file import read_control_file
from logship.seal import seal
from logship.wal import WalLine, history_name, segment_end, segment_name, segment_start
from shipper.seeding import SeedFrame, SeedSender
from tests.support.servers import PrimaryServer

NAME = "main"
SETTINGS = {
    "wal_keep_size": "512MB",
    "track_commit_timestamp": "on",
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "fsync": "off",
}


class Committed(NamedTuple):
    """A row of the workload, as the server says when it was committed."""

    writer: int
    number: int
    time: int
    """Microseconds since 1970 UTC."""
    xid: int


class Acknowledged(NamedTuple):
    """A transaction of the workload, as its client saw it; microseconds since 1970 UTC, by the
    clock that the server has too."""

    rows: tuple[tuple[int, int], ...]
    sent_at: int
    """Before its commit was asked for."""
    acknowledged_at: int
    """After the commit was answered."""


class Point(NamedTuple):
    """A restore point: the end of its record, and how many rows were there."""

    name: str
    end_lsn: Lsn
    rows: int

    @property
    def crosses_a_page(self) -> bool:
        return (self.end_lsn - 104) // 8192 != (self.end_lsn - 1) // 8192


class Recording:
    """What a `Recorder` made.  All of timeline 1, unless there was a fork to 2."""

    def __init__(self, server: PrimaryServer) -> None:
        self.server = server
        """Where the newest timeline is."""
        self.start = Lsn(0)
        """The first seed's segment."""
        self.first_seed_at = 0
        """The next whole second after the first seed was complete, microseconds since 1970 UTC:
        from then on it can be restored to times."""
        self.fork: Lsn | None = None
        self.forked_at = 0
        """Between the last commit of the first timeline and the first of the second."""
        self.end = Lsn(0)
        self.rows: list[Committed] = []
        self.journal: list[Acknowledged] = []
        self.points: list[Point] = []
        self.ended_at = 0.0
        """When nothing more was going on."""
        self.files: dict[tuple[int, int], bytes] = {}
        """Segments by (timeline, start)."""
        self.histories: dict[int, bytes] = {}
        ((version,),) = server.execute("SELECT current_setting('server_version_num')::int")
        self.profile = read_control_file(server.data).profile(
            server_version_num=version, architecture=platform.machine()
        )
        self.line = WalLine(
            self.profile.system_identifier, self.profile.major, self.profile.wal_segment_size
        )

    @property
    def keys(self) -> Keys:
        return Keys(NAME, self.profile.incarnation)

    def expected_at(self, time_: int) -> set[tuple[int, int]]:
        """The rows that were committed by then."""
        return {(row.writer, row.number) for row in self.rows if row.time <= time_}

    def acknowledged_by(self, time_: int) -> set[tuple[int, int]]:
        """What a client was told by then: none of it may be missing."""
        done = [each.rows for each in self.journal if each.acknowledged_at <= time_]
        return {row for rows in done for row in rows}

    def sent_by(self, time_: int) -> set[tuple[int, int]]:
        """What a client had committed, or was about to: nothing else may be there."""
        return {row for each in self.journal if each.sent_at <= time_ for row in each.rows}

    def spans(self) -> list[tuple[int, int, int]]:
        """(timeline, start, end) of what a shipper would have sent, in order."""
        if self.fork is None:
            return [(1, self.start, self.end)]
        first = segment_start(self.fork, self.line.segment_bytes)
        return [(1, self.start, self.fork), (2, first, self.end)]

    def bytes_of(self, timeline: int, start: int, end: int) -> bytes:
        """Within one segment."""
        segment = segment_start(start, self.line.segment_bytes)
        content = self.files[timeline, segment]
        return content[start - segment : end - segment]

    # --- where it is kept -------------------------------------------------------------------

    def write_record(
        self, instance_directory: Path, heard_at: float | None, *, store_volume: str = ""
    ) -> None:
        instance_directory.mkdir(parents=True, exist_ok=True)
        timeline = 1 if self.fork is None else 2
        heard = None
        if heard_at is not None:
            heard = Heard(timeline=timeline, lsn=self.end, at=heard_at)
        record = InstanceRecord(
            name=NAME,
            incarnation=self.profile.incarnation,
            profile=self.profile,
            heard=heard,
            volumes=Volumes(store=store_volume),
        )
        save_record(instance_directory, record)

    async def fill_store(self, instance_directory: Path, *, missing: range = range(0)) -> None:
        """As the applier would have kept it.  missing: LSNs of a hole, whole segments; a new
        chain begins behind it."""
        directory = instance_directory / str(self.profile.incarnation) / "wal"
        directory.parent.mkdir(parents=True, exist_ok=True)
        store = Store.open(directory, self.line, keep_free_bytes=0)
        try:
            await store.begin_chain(1, self.start, seed_id="first")
            for timeline, content in self.histories.items():
                await store.add_history(timeline, content)
            for timeline, start, end in self.spans():
                lsn = start
                while lsn < end:
                    stop = min(end, segment_end(lsn, self.line.segment_bytes))
                    if lsn in missing:
                        lsn = stop
                        if lsn not in missing:
                            await store.begin_chain(timeline, lsn, seed_id="second")
                        continue
                    await store.append(timeline, lsn, self.bytes_of(timeline, lsn, stop))
                    lsn = stop
            await store.flush()
        finally:
            store.close()

    def fill_bucket(
        self,
        bucket: ObjectStore,
        *,
        seed: int,
        until: int | None = None,
        since: int = 0,
        recipients: Seals = PLAIN,
    ) -> None:
        """As a shipper would have sent it: spans of any size, segments in one object, a marker."""
        chosen = random.Random(seed)
        digest, profile = encode_profile(self.profile)
        documents = {self.keys.profile(digest): profile}
        documents |= {self.keys.history(each): text for each, text in self.histories.items()}
        for key, content in documents.items():
            bucket.put(key, recipients.seal(pack_document(content)), document_metadata(content))
        for timeline, start, end in self.spans():
            lsn = max(start, segment_start(since, self.line.segment_bytes))
            while lsn < min(end, until or end):
                segment = segment_start(lsn, self.line.segment_bytes)
                stop = min(end, segment_end(lsn, self.line.segment_bytes))
                whole = stop - segment == self.line.segment_bytes and lsn == segment
                if whole and chosen.random() < 0.5:
                    key = self.keys.segment(timeline, lsn, self.line.segment_bytes)
                    self._put(bucket, key, timeline, lsn, stop, recipients)
                else:
                    while lsn < stop:
                        cut = min(stop, lsn + chosen.choice((9000, 100_000, 500_000)))
                        key = self.keys.wal(Place(timeline, Lsn(lsn)))
                        self._put(bucket, key, timeline, lsn, cut, recipients)
                        lsn = cut
                lsn = stop
            if timeline == 1 and self.fork is not None and until is None:
                head = Head(timeline=1, start_lsn=end, marker=Marker(kind="timeline", timeline=2))
                place = Place(1, Lsn(end))
                bucket.put(self.keys.wal(place), b"", metadata_of(head))

    def _put(
        self,
        bucket: ObjectStore,
        key: str,
        timeline: int,
        start: int,
        end: int,
        recipients: Seals,
    ) -> None:
        body, raw_bytes, checksum = pack([seal(self.bytes_of(timeline, start, end))])
        head = Head(
            timeline=timeline,
            start_lsn=start,
            raw_bytes=raw_bytes,
            crc32c=checksum,
            flush_lsn=end,
            flush_timeline=timeline,
            sent_at=self.ended_at,
        )
        bucket.put(key, recipients.seal(body), metadata_of(head))


class Recorder:
    """Makes a recording: a workload of several writers, seeds while it runs, restore points."""

    def __init__(self, server: PrimaryServer, seeds: Path) -> None:
        self.recording = Recording(server)
        self._seeds = DirectoryStore(seeds)
        self._numbers = [0, 0, 0]

        server.execute(
            "CREATE TABLE events"
            " (writer int, number int, filler text, PRIMARY KEY (writer, number))"
        )

    def work(self, seconds: float, *, writers: int = 3) -> None:
        """Transactions of one row, and some of more, beside each other, with and without
        pauses.  seconds: of each writer, once it is connected."""
        threads = [
            threading.Thread(target=self._write, args=(writer, seconds))
            for writer in range(writers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _write(self, writer: int, seconds: float) -> None:
        chosen = random.Random(writer)
        with psycopg.connect(self.recording.server.dsn(), autocommit=True) as connection:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                rows = []
                with connection.transaction():
                    for _ in range(chosen.choice((1, 1, 1, 3))):
                        self._numbers[writer] += 1
                        rows.append((writer, self._numbers[writer]))
                        filler = "x" * chosen.randrange(4000)
                        connection.execute(
                            "INSERT INTO events VALUES (%s, %s, %s)", (*rows[-1], filler)
                        )
                    sent_at = _now()
                self.recording.journal.append(Acknowledged(tuple(rows), sent_at, _now()))
                if chosen.random() < 0.1:
                    with connection.transaction(force_rollback=True):
                        connection.execute("INSERT INTO events VALUES (-1, -1, '')")
                connection.execute("SELECT pg_sleep(%s)", (chosen.random() * 0.01,))

    def seed(self) -> None:
        """A base backup into the directory of seeds."""
        recording = self.recording
        writer = SeedArchiveWriter(self._seeds, recording.keys, profile=recording.profile)

        async def keep(frame: SeedFrame, payload: bytes | memoryview) -> None:
            await asyncio.to_thread(writer.take, frame, payload)

        asyncio.run(SeedSender(recording.server.dsn()).run(keep))
        if not recording.start:
            recording.first_seed_at = (int(time.time()) + 1) * 1_000_000
            (info,) = list_seeds(self._seeds, recording.keys)
            recording.start = segment_start(info.start_lsn, recording.line.segment_bytes)

    def point(self, name: str) -> None:
        server = self.recording.server
        ((rows,),) = server.execute("SELECT count(*) FROM events")
        ((lsn,),) = server.execute("SELECT pg_create_restore_point(%s)::text", name)
        self.recording.points.append(Point(name, Lsn.parse(lsn), rows))

    def points_until_one_crosses_a_page(self) -> Point:
        number = 0
        while not (self.recording.points and self.recording.points[-1].crosses_a_page):
            self.point(f"crossing {number}")
            number += 1
        return self.recording.points[-1]

    def fail_over(self, directory: Path) -> None:
        """Go on with a promoted standby."""
        old = self.recording.server
        standby = old.clone_as_standby(directory)
        end = Lsn.parse(old.current_wal_lsn())
        self.recording.forked_at = time.time_ns() // 1000
        old.stop()
        self._collect(1, old)
        standby.promote()
        self.recording.server = standby
        content = (standby.data / "pg_wal" / history_name(2)).read_bytes()
        self.recording.histories[2] = content
        fork = Lsn.parse(content.split()[1].decode())
        assert fork >= end
        self.recording.fork = fork

    def finish(self) -> Recording:
        recording, server = self.recording, self.recording.server
        server.execute("CHECKPOINT")  # restore points are not flushed by themselves
        # At once: what the query below writes is flushed by whole pages, amid a record.
        recording.end = Lsn.parse(server.current_wal_lsn())
        rows = server.execute(
            "SELECT writer, number,"
            " (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::int8,"
            " xmin::text::int8 FROM events ORDER BY 3"
        )
        recording.rows = [Committed(*row) for row in rows]
        in_table = {(row.writer, row.number) for row in recording.rows}
        assert recording.acknowledged_by(_now()) == in_table, "the server lost or made up rows"
        recording.ended_at = time.time()
        self._collect(1 if recording.fork is None else 2, server)
        return recording

    def _collect(self, timeline: int, server: PrimaryServer) -> None:
        """The segments of a timeline."""
        recording, segment_bytes = self.recording, self.recording.line.segment_bytes
        lsn = int(recording.start)
        while True:
            path = server.data / "pg_wal" / segment_name(timeline, lsn, segment_bytes)
            if path.exists():
                recording.files[timeline, lsn] = path.read_bytes()
            elif recording.files and (timeline, lsn - segment_bytes) in recording.files:
                return
            lsn += segment_bytes


def _now() -> int:
    return time.time_ns() // 1000
