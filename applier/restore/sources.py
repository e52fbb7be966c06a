"""Everything of one instance that a restore may draw on, opened to be read and nothing else.

A running applier, its standby and its store are left alone: the store is opened read-only
beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from applier.fleet.places import IncarnationPlaces, InstancePlaces
from applier.operations.record import InstanceRecord, load_record
from applier.restore.bucket_wal import BucketWal
from applier.restore.kept import Kept
from applier.restore.records import Records
from applier.restore.seeds import SeedChoice, find_seeds
from applier.restore.spool import Spool
from applier.restore.window import Heard, Window, make_window, nothing_kept
from applier.retention.leases import HeldLease, Lease
from applier.standby.tablespaces import Note, TablespaceNotes
from applier.store import Store
from applier.store.commit_times import FILE_NAME, CommitTimes, Times
from logship.bucket.keys import Keys
from logship.bucket.reading import Bucket, newest_incarnation
from logship.bucket.seed_archive import Opens
from logship.errors import Code, UsageError
from logship.identity import Incarnation, Profile
from logship.objects import ObjectStore
from logship.wal import History, WalLine

_SPOOL_BYTES: Final = 512 * 1024 * 1024
_SPOOL_SEGMENTS: Final = 8
_MICROSECONDS: Final = 1_000_000

log = structlog.get_logger(__name__)


class Archive:
    """One more place than the local store: a bucket, or a directory of kept seeds."""

    def __init__(self, store: ObjectStore, identities: Opens) -> None:
        self.store = store
        self.identities = identities

    def of(self, name: str, incarnation: Incarnation) -> Bucket:
        return Bucket(self.store, Keys(name, incarnation), self.identities)


class Sources:
    """What `open_sources` found.  `close` in the end.  All of it blocks."""

    def __init__(
        self,
        name: str,
        profile: Profile,
        kept: Kept,
        history: History,
        seeds: Sequence[SeedChoice],
        heard: Heard | None,
        spool: Spool | None,
    ) -> None:
        self.name = name
        self.profile = profile
        self.kept = kept
        self.history = history
        """The line of descent that restores follow."""
        self.seeds = seeds
        self.spool = spool
        self.lease: HeldLease | None = None
        """Keeps retention away from it."""
        self.tablespaces: tuple[Note, ...] = ()
        """Those that the primary made since seeds, as an applier here noted them."""
        self._heard = heard

    @property
    def records(self) -> Records:
        return Records(self.kept, self.history)

    def window(self) -> Window:
        """What can be restored to.  Raises LogshipError(TARGET_UNREACHABLE): nothing can."""
        window = make_window(self.kept, self.history, self.seeds, self._heard)
        if not window.stretches:
            raise nothing_kept(self.name, self.kept, self.seeds)
        return window

    def tablespaces_below(self, lsn: int) -> tuple[Note, ...]:
        """Those that a replay that stops at `lsn` may come to."""
        return tuple(note for note in self.tablespaces if note.start_lsn < lsn)

    def hold_only(self, seed: SeedChoice) -> None:
        """From now on nothing before this seed is needed."""
        info = seed.info
        # Where it can't be said, everything stays held.
        with contextlib.suppress(OSError):
            if self.lease is not None:
                self.lease.narrow(Lease(info.timeline, info.start_lsn, info.begin.seed_id))

    def close(self) -> None:
        if self.lease is not None:
            self.lease.release()
            self.lease = None
        if self.kept.store is not None:
            self.kept.store.close()
        if self.spool is not None:
            self.spool.close()


def open_sources(
    name: str,
    places: InstancePlaces,
    spool_directory: Path,
    *,
    bucket: Archive | None,
    seed_places: Sequence[Archive],
    timeline: int | None = None,
    heard: Heard | None = None,
) -> Sources:
    """Look at what there is.

    places: where the applier has the instance, if it does.  spool_directory: made when it is
    needed, and removed by `close`.  seed_places: where seeds are besides the bucket.  timeline:
    whose line of descent to follow; None: the newest's.  heard: news of the primary, besides
    what the applier wrote down.

    Raises LogshipError: UNKNOWN_INSTANCE (nothing is kept of it anywhere), STORE_DAMAGED,
    STORE_FAILED, HISTORY_MISSING, and what the bucket raises.
    """
    record = load_record(places.home, name)
    incarnation = record.incarnation
    if incarnation is None and bucket is not None:
        incarnation = newest_incarnation(bucket.store, name)
    archives = [each.of(name, incarnation) for each in seed_places] if incarnation else []
    in_bucket = bucket.of(name, incarnation) if bucket is not None and incarnation else None
    profile = record.profile or (in_bucket.newest_profile() if in_bucket is not None else None)
    if incarnation is None or profile is None:
        raise UsageError(
            Code.UNKNOWN_INSTANCE,
            f"nothing is kept of an instance {name!r}",
            "check its name, the settings file and the bucket",
        )
    line = WalLine(profile.system_identifier, profile.major, profile.wal_segment_size)
    of_incarnation = places.of(incarnation, record.volumes)
    tablespaces = TablespaceNotes(of_incarnation.standby).all()
    store, times = _open_store(of_incarnation, line)
    try:
        wal = BucketWal.look(in_bucket, line) if in_bucket is not None else None
        spool = None
        if wal is not None:
            limit_bytes = max(_SPOOL_BYTES, _SPOOL_SEGMENTS * line.segment_bytes)
            spool = Spool(wal, spool_directory, limit_bytes)
        kept = Kept(line, store, wal, spool, times)
        newest = timeline or kept.newest_timeline
        history = kept.history_of(newest) if newest is not None else History(1, ())
        # The local ones first: they are the quickest to read.
        seeds = find_seeds([*archives, *([in_bucket] if in_bucket is not None else [])])
    except BaseException:
        if store is not None:
            store.close()
        raise
    known = [each for each in (heard, _heard_before(record), _heard_by(wal)) if each is not None]
    latest = max(known, key=lambda each: each.time, default=None)
    sources = Sources(name, profile, kept, history, seeds, latest, spool)
    sources.tablespaces = tablespaces
    return sources


def _open_store(places: IncarnationPlaces, line: WalLine) -> tuple[Store | None, Times]:
    if not places.wal.is_dir():
        return None, {}
    store = Store.open(places.wal, line, keep_free_bytes=0, read_only=True)
    index = CommitTimes(places.store / FILE_NAME, line)
    index.load()
    return store, index.times


def _heard_before(record: InstanceRecord) -> Heard | None:
    """What the applier wrote down, now and then."""
    heard = record.heard
    if heard is None:
        return None
    return Heard(heard.timeline, heard.lsn, int(heard.at * _MICROSECONDS))


def _heard_by(wal: BucketWal | None) -> Heard | None:
    if wal is None or wal.complete_until is None:
        return None
    timeline, lsn = wal.complete_to
    return Heard(timeline, lsn, int(wal.complete_until * _MICROSECONDS))
