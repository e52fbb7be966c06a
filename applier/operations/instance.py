"""One instance: what receivers feed, what standbys stream from, what is promoted.

The WAL path is short: `wal` writes and wakes the flusher, the store's subscribers (the WAL
server) send it on at once, the flusher syncs and tells the receiver what became durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import msgspec
import structlog

from applier.operations.alarms import Alarms
from applier.operations.following import Following
from applier.operations.host import Host
from applier.operations.record import (
    Fence,
    Heard,
    InstanceRecord,
    load_record,
    save_record,
)
from applier.receivers import FencedError, IntakeListener, Positions, Resume
from applier.receivers.seed.placement import recover_placement
from applier.receivers.seed.receiver import SeedOutOfOrderError, SeedReceiver
from applier.store import Store
from logship import durable
from logship.errors import Code, LogshipError, RefusedError
from logship.frames import (
    GapFound,
    Hello,
    SeedBegin,
    SeedChunk,
    SeedEnd,
    ShipperHeartbeat,
)
from logship.identity import Incarnation, Profile
from logship.lsn import Lsn
from logship.wal import PAGE_MAGIC, WAL_PAGE_BYTES, WalLine, check_segment_size, segment_start

log = structlog.get_logger(__name__)

HEARD_SAVE_SECONDS = 1.0
"""How often at most the primary's last known flush position is written down."""

FULL_DISK_RETRY_SECONDS = 1.0
SWAP_TRIES = 5


class LinkState(msgspec.Struct):
    """The sender, as last heard.  Times are seconds since the epoch."""

    state: str = "never"
    since: float | None = None
    heard_at: float | None = None
    primary_reachable: bool | None = None
    sync_state: str = ""
    slot_wal_status: str = ""


class Instance:
    """See `applier.receivers.Intake` for the calls of receivers.

    Call `open` first and `close` last.  Everything runs in one event loop.
    """

    def __init__(self, name: str, host: Host) -> None:
        self.name = name
        self.host = host
        self.directory = host.instance_directory(name)
        self.settings = host.settings.instances[name]
        self.alarms = Alarms(name)
        self.link = LinkState()
        self.record = InstanceRecord(name=name)
        self.store: Store | None = None
        self.seeder: SeedReceiver | None = None
        self.gap: GapFound | None = None
        self.following = Following(self)
        self.heard: Heard | None = None
        self.behind_since: float | None = None
        """Since when the store lacks something the primary was heard to have."""
        self._heard_saved_at = 0.0
        self._listener: IntakeListener | None = None
        self._dirty = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None

    # --- life -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Take up what is on disk: record, store, an interrupted seed, the standby.

        Raises LogshipError (STORE_LOCKED, STORE_DAMAGED, …).
        """
        await asyncio.to_thread(durable.make_directory, self.directory, 0o711)
        self.record = await asyncio.to_thread(load_record, self.directory, self.name)
        self.heard = self.record.heard
        if self.record.incarnation is None or self.record.profile is None:
            return
        await asyncio.to_thread(recover_placement, self.incarnation_directory)
        await self._open_store(self.record.profile)
        await self.following.open()

    async def close(self) -> None:
        """Leave the standby running, let go of everything else."""
        await self._save_heard(force=True)
        if self.seeder is not None:
            await self.seeder.abort()
            self.seeder = None
        await self.following.close()
        await self._close_store()

    @property
    def incarnation_directory(self) -> Path:
        assert self.record.incarnation is not None
        return self.directory / str(self.record.incarnation)

    async def _open_store(self, profile: Profile) -> None:
        line = WalLine(profile.system_identifier, profile.major, profile.wal_segment_size)
        directory = self.incarnation_directory / "wal"
        await asyncio.to_thread(durable.make_directory, self.incarnation_directory, 0o711)
        self.store = await asyncio.to_thread(
            Store.open, directory, line, keep_free_bytes=self.host.keep_free_bytes
        )
        self._dirty = asyncio.Event()
        self._flusher = asyncio.create_task(self._flush_when_dirty(self.store))
        self.following.serve(self.store)

    async def _close_store(self) -> None:
        self.following.withdraw()
        if self._flusher is not None:
            self._flusher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flusher
            self._flusher = None
        if self.store is not None:
            store, self.store = self.store, None
            await asyncio.to_thread(store.close)

    async def remember(self, **changes: object) -> None:
        """Change the record, durably, before returning."""
        record = msgspec.structs.replace(self.record, **changes)
        await asyncio.to_thread(save_record, self.directory, record)
        self.record = record

    # --- Intake: who sends ----------------------------------------------------------------

    async def hello(self, hello: Hello, listener: IntakeListener) -> Resume:
        self._check_fence()
        profile = hello.profile
        check_profile(profile)
        await self._check_incarnation(profile)
        if profile != self.record.profile or hello.protection != self.record.protection:
            await self.remember(
                incarnation=profile.incarnation, profile=profile, protection=hello.protection
            )
        if self.store is None:
            await self._open_store(profile)
        await self.following.primary_changed(profile)
        self._listener = listener
        self._link_changed("connected")
        self.heard_from(hello.timeline, hello.flush_lsn)
        assert self.store is not None
        resuming = self.seeder is not None and self.seeder.seed_id == hello.seed_id
        if self.seeder is not None and not resuming:
            await self._give_up_seed("the shipper started over")
        return Resume(
            position=self.store.durable,
            known_timelines=tuple(self.store.histories()),
            seed_wanted=self._wants_seed() and not resuming,
            seed_id=self.seeder.seed_id if self.seeder is not None else "",
            seed_sequence=self.seeder.next_sequence if self.seeder is not None else 0,
        )

    def _wants_seed(self) -> bool:
        return self.settings.seed == "auto" and self.following.placed is None

    async def _check_incarnation(self, profile: Profile) -> None:
        known = self.record.incarnation
        if known is None or known == profile.incarnation:
            stored = self.record.profile
            if known and stored and stored.wal_segment_size != profile.wal_segment_size:
                raise RefusedError(
                    Code.SEGMENT_SIZE_MISMATCH,
                    f"the primary has WAL segments of {profile.wal_segment_size} bytes, "
                    f"the store has {stored.wal_segment_size}",
                    "a changed segment size needs a new seed under a new instance name",
                )
            return
        if self.store is not None and self.store.start is None and self.following.placed is None:
            # Nothing was ever received of the other cluster: it was a first try gone wrong.
            log.warning("forgetting a cluster that never shipped anything", cluster=str(known))
            await self._close_store()
            await self.remember(incarnation=None, profile=None)
            return
        raise mismatch(known, profile.incarnation)

    def lost(self, listener: IntakeListener, why: str) -> None:
        if listener is not self._listener:
            return
        self._listener = None
        self._link_changed("lost")
        self.alarms.clear(Code.DISK_FULL)
        log.warning("the shipper is gone", instance=self.name, why=why)

    def _link_changed(self, state: str) -> None:
        if self.link.state != state:
            self.link.state = state
            self.link.since = time.time()

    # --- Intake: what is said of the primary ----------------------------------------------

    def heard_from(self, timeline: int, flush_lsn: int) -> None:
        """The primary's flush position, as the sender knows it."""
        now = time.time()
        self.link.heard_at = now
        if flush_lsn:
            self.heard = Heard(timeline=timeline, lsn=flush_lsn, at=now)
            self._note_exposure(now)

    def heartbeat(self, heartbeat: ShipperHeartbeat) -> None:
        self.link.primary_reachable = heartbeat.primary_reachable
        self.link.sync_state = heartbeat.sync_state
        self.link.slot_wal_status = heartbeat.slot_wal_status
        self.heard_from(heartbeat.timeline, heartbeat.flush_lsn)
        self.alarms.slot(heartbeat.slot_wal_status)

    async def profile(self, profile: Profile) -> None:
        self._check_fence()
        check_profile(profile)
        if self.record.incarnation != profile.incarnation:
            assert self.record.incarnation is not None
            raise mismatch(self.record.incarnation, profile.incarnation)
        if profile != self.record.profile:
            await self.remember(profile=profile)
            await self.following.primary_changed(profile)

    def _note_exposure(self, now: float) -> None:
        durable_now = self.store.durable if self.store is not None else None
        assert self.heard is not None
        if durable_now is not None and durable_now >= (self.heard.timeline, self.heard.lsn):
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = now

    async def _save_heard(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if self.heard is None or self.heard == self.record.heard:
            return
        if force or now - self._heard_saved_at >= HEARD_SAVE_SECONDS:
            self._heard_saved_at = now
            with contextlib.suppress(OSError):
                await self.remember(heard=self.heard)

    # --- Intake: WAL ----------------------------------------------------------------------

    async def history(self, timeline: int, content: bytes) -> None:
        self._check_fence()
        await self._opened_store.add_history(timeline, content)
        log.info("a new timeline", instance=self.name, timeline=timeline)

    async def wal(self, timeline: int, start_lsn: int, data: bytes | memoryview) -> None:
        while True:
            self._check_fence()
            try:
                await self._opened_store.append(timeline, start_lsn, data)
            except LogshipError as error:
                if error.code != Code.DISK_FULL:
                    await self._store_refused(error)
                    raise
                self.alarms.raise_error(error)
                await asyncio.sleep(FULL_DISK_RETRY_SECONDS)
                continue
            break
        self.alarms.clear(Code.DISK_FULL)
        if self.gap is not None:
            self.gap = None
            self.alarms.clear(Code.WAL_GAP)
        self._dirty.set()

    async def _store_refused(self, error: LogshipError) -> None:
        if error.code in (Code.WAL_CONFLICT, Code.BAD_WAL_PAGE, Code.STORE_FAILED):
            self.alarms.raise_error(error)
        if error.code == Code.STORE_FAILED:
            await self._reopen_store()

    async def _flush_when_dirty(self, store: Store) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await store.flush()
            except LogshipError as error:
                self.alarms.raise_error(error)
                if self._listener is not None:
                    self._listener.failed(error)
                # A new task: this one ends with the store it belongs to.
                self.host.spawn(self._reopen_store())
                return
            if self.heard is not None:
                self._note_exposure(time.time())
            if self._listener is not None:
                self._listener.positions_changed()
            await self._save_heard()

    async def _reopen_store(self) -> None:
        """After a failed fsync nothing in memory is believed: scan what is on the disk."""
        assert self.record.profile is not None
        while True:
            await self._close_store()
            try:
                await self._open_store(self.record.profile)
            except LogshipError as error:
                self.alarms.raise_error(error)
                await asyncio.sleep(FULL_DISK_RETRY_SECONDS)
                continue
            break
        self.alarms.clear(Code.STORE_FAILED)

    @property
    def _opened_store(self) -> Store:
        if self.store is None:
            raise LogshipError(Code.STORE_FAILED, "the store is being opened again", retryable=True)
        return self.store

    def positions(self) -> Positions | None:
        store = self.store
        if store is None or store.written is None or store.durable is None:
            return None
        return Positions(store.written, store.durable, self.following.applied_lsn)

    def standby_moved(self) -> None:
        """The standby reported another position."""
        if self._listener is not None:
            self._listener.positions_changed()

    def gap_found(self, gap: GapFound) -> None:
        self.gap = gap
        missing = f"{gap.timeline}:{Lsn(gap.from_lsn)}"
        self.alarms.raise_error(
            LogshipError(
                Code.WAL_GAP,
                f"WAL from {missing} is gone from the primary: {gap.what}",
                f"the standby stays at what it has and can be promoted; to protect the "
                f"instance again: applier seed {self.name}",
            )
        )

    # --- Intake: seeds --------------------------------------------------------------------

    def request_seed(self, why: str) -> None:
        """Ask the connected sender for a seed.  Raises RefusedError when there is none."""
        self._check_fence()
        if self._listener is None:
            raise RefusedError(
                Code.LINK_LOST,
                f"no shipper of {self.name} is connected",
                "a seed comes from the primary: start its shipper, then ask again",
            )
        if self.seeder is not None:
            raise RefusedError(
                Code.SEED_FAILED, f"a seed of {self.name} is already arriving", "wait for it"
            )
        self._listener.seed_requested(why)

    async def seed_begin(self, frame: SeedBegin) -> None:
        self._check_fence()
        if self.seeder is not None:
            await self._give_up_seed("another seed began")
        assert self.record.profile is not None
        seeder = SeedReceiver(
            self.incarnation_directory,
            run_as=self.host.run_as,
            keep_free_bytes=self.host.keep_free_bytes,
            system_identifier=self.record.profile.system_identifier,
        )
        await seeder.begin(frame)
        self.seeder = seeder
        start = segment_start(frame.start_lsn, self.record.profile.wal_segment_size)
        await self._opened_store.begin_chain(frame.timeline, start, seed_id=frame.seed_id)
        self.gap = None
        self.alarms.clear(Code.WAL_GAP)
        self.alarms.clear(Code.SEED_FAILED)
        log.info("a seed begins", instance=self.name, seed_id=frame.seed_id, start_lsn=str(start))

    async def seed_chunk(self, frame: SeedChunk, payload: bytes | memoryview) -> None:
        self._check_fence()
        try:
            await self._seeder(frame.seed_id).chunk(frame, payload)
        except LogshipError as error:
            if self.seeder is not None and self.seeder.failure is not None:
                await self._seed_broke(error)
            raise

    async def seed_end(self, frame: SeedEnd) -> None:
        self._check_fence()
        seeder = self._seeder(frame.seed_id)
        for tries_left in reversed(range(SWAP_TRIES)):
            try:
                await seeder.end(frame, before_swap=self.following.stop)
                break
            except SeedOutOfOrderError:
                raise
            except LogshipError as error:
                # A verified seed is too dear to be thrown away because a server was slow
                # to stop.
                if seeder.failure is None and tries_left:
                    log.warning("the seed is not in place yet", **error.as_dict())
                    await asyncio.sleep(FULL_DISK_RETRY_SECONDS)
                    continue
                await self._seed_broke(error)
                raise
        self.seeder = None
        log.info("the seed is in place", instance=self.name, seed_id=frame.seed_id)
        await self.following.seeded()

    async def seed_stopped(self, seed_id: str, code: str, what: str) -> None:
        if self.seeder is not None and self.seeder.seed_id == seed_id:
            known = Code(code) if code in set(Code) else Code.SEED_FAILED
            await self._seed_broke(LogshipError(known, what, retryable=True))

    def _seeder(self, seed_id: str) -> SeedReceiver:
        if self.seeder is None or self.seeder.seed_id != seed_id:
            raise LogshipError(
                Code.SEED_FAILED, f"seed {seed_id} is not known here any more", retryable=False
            )
        return self.seeder

    async def _seed_broke(self, error: LogshipError) -> None:
        self.alarms.raise_error(error)
        await self._give_up_seed(error.what)

    async def _give_up_seed(self, why: str) -> None:
        if self.seeder is not None:
            seeder, self.seeder = self.seeder, None
            log.warning("gave up a seed", instance=self.name, seed_id=seeder.seed_id, why=why)
            try:
                await seeder.abort()
            except LogshipError as error:
                # What is left of it is removed when the next seed begins.
                log.warning("could not remove an unfinished seed", **error.as_dict())

    # --- the fence ------------------------------------------------------------------------

    async def fence(self, reason: str) -> None:
        """From now on nothing of the old line is accepted, also after a crash."""
        if self.record.fence is None:
            await self.remember(fence=Fence(at=time.time(), reason=reason), heard=self.heard)
        self.tell_fenced()

    async def unfence(self) -> None:
        """Take the fence back: the promotion failed before anything was opened."""
        await self.remember(fence=None)

    def tell_fenced(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._link_changed("lost")
            listener.fenced(self._fenced_error())

    def _check_fence(self) -> None:
        if self.record.fence is not None:
            raise self._fenced_error()

    def _fenced_error(self) -> FencedError:
        fence, promotion = self.record.fence, self.record.promotion
        assert fence is not None
        if promotion is None:
            return FencedError(fence.at, 0, 0)
        return FencedError(fence.at, promotion.opened_timeline, promotion.opened_lsn)


def check_profile(profile: Profile) -> None:
    """Refuse a cluster that could not be stored.  Raises RefusedError."""
    if profile.major not in PAGE_MAGIC:
        known = ", ".join(map(str, PAGE_MAGIC))
        raise RefusedError(
            Code.MAJOR_MISMATCH,
            f"PostgreSQL {profile.major} is not supported",
            f"supported majors: {known}",
        )
    if profile.wal_block_size != WAL_PAGE_BYTES:
        raise RefusedError(
            Code.COMPATIBILITY,
            f"WAL pages of {profile.wal_block_size} bytes are not supported",
            f"packaged PostgreSQL has {WAL_PAGE_BYTES}",
        )
    try:
        check_segment_size(profile.wal_segment_size)
    except ValueError as error:
        raise RefusedError(Code.SEGMENT_SIZE_MISMATCH, str(error)) from error


def mismatch(known: Incarnation, found: Incarnation) -> RefusedError:
    """Why another cluster's WAL is not taken under this instance's name."""
    if known.system_identifier != found.system_identifier:
        return RefusedError(
            Code.SYSTEM_IDENTIFIER_MISMATCH,
            f"the primary is cluster {found.system_identifier}, "
            f"this instance is {known.system_identifier}",
            "check the shipper's conninfo; a different cluster needs its own instance name",
        )
    return RefusedError(
        Code.MAJOR_MISMATCH,
        f"the primary is PostgreSQL {found.major}, this instance is {known.major}",
        "a cluster after pg_upgrade needs its own instance name",
    )
