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

from applier.operations.admission import check_profile, check_same_segments, mismatch
from applier.operations.alarms import Alarms
from applier.operations.arrival import Arrival
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
from logship.identity import Profile
from logship.lsn import Lsn
from logship.wal import WalLine

log = structlog.get_logger(__name__)

HEARD_SAVE_SECONDS = 1.0
"""How often at most the primary's last known flush position is written down."""

FULL_DISK_RETRY_SECONDS = 1.0


class LinkState(msgspec.Struct):
    """The sender, as last heard.  Times are seconds since the epoch."""

    state: str = "never"
    since: float | None = None
    heard_at: float | None = None
    """Monotonic, as it decides what is still true: a step of the clock must not."""
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
        self.gap: GapFound | None = None
        self.following = Following(self)
        self.arrival = Arrival(self)
        self.failure: LogshipError | None = None
        """Why the instance could not be opened: nothing is received or promoted until it is."""
        self.heard: Heard | None = None
        self.behind_since: float | None = None
        """Since when (monotonic) the store lacks something the primary was heard to have."""
        self._heard_saved_at = 0.0
        self._listener: IntakeListener | None = None
        self._seed_asked = False
        """An operator asked for a seed and none has begun since."""
        self._store_turn = asyncio.Lock()
        self._record_turn = asyncio.Lock()
        self.promotion_turn = asyncio.Lock()
        """Held while a promotion runs: there is never a second one beside it."""
        self._dirty = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None

    # --- life -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Take up what is on disk: record, store, an interrupted seed, the standby.

        Raises LogshipError (STORE_LOCKED, STORE_DAMAGED, …); `close`, and it may be tried again.
        """
        try:
            await asyncio.to_thread(durable.make_directory, self.directory, 0o711)
            self.record = await asyncio.to_thread(load_record, self.directory, self.name)
            self.heard = self.record.heard
            if self.heard is not None and self.link.state == "never":
                self.link.state, self.link.since = "lost", self.heard.at
            if self.record.incarnation is not None and self.record.profile is not None:
                await asyncio.to_thread(recover_placement, self.incarnation_directory)
                await self._open_store(self.record.profile)
                await self.following.open()
        except OSError as error:
            raise LogshipError(
                Code.STORE_FAILED,
                f"{self.directory} can't be used: {error}",
                "look at the disk and its messages",
                retryable=True,
            ) from error
        self.failure = None

    async def close(self) -> None:
        """Leave the standby running, let go of everything else."""
        await self._save_heard()
        await self.arrival.give_up("the applier stops")
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
        for code in (Code.STORE_FAILED, Code.STORE_DAMAGED, Code.STORE_LOCKED):
            self.alarms.clear(code)
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
        """Change the record, durably, before returning.  A cancelled caller changes it too."""
        await self.host.to_the_end(self._remember(changes))

    async def _remember(self, changes: dict[str, object]) -> None:
        # One after the other: two at once would each write the record without the other's
        # change, and the one that is lost may be the fence.
        async with self._record_turn:
            record = msgspec.structs.replace(self.record, **changes)
            await asyncio.to_thread(save_record, self.directory, record)
            self.record = record

    async def _ensure_store(self, profile: Profile) -> None:
        async with self._store_turn:
            if self.store is None:
                await self._open_store(profile)

    # --- Intake: who sends ----------------------------------------------------------------

    async def hello(self, hello: Hello, listener: IntakeListener) -> Resume:
        if self.failure is not None:
            raise self.failure
        self._check_fence()
        profile = hello.profile
        check_profile(profile)
        await self._check_incarnation(profile)
        if profile != self.record.profile or hello.protection != self.record.protection:
            await self.remember(
                incarnation=profile.incarnation, profile=profile, protection=hello.protection
            )
        # Of its own: cut off in the middle, an opened store would hold its lock for ever.
        await self.host.to_the_end(self._ensure_store(profile))
        await self.following.primary_changed(profile)
        resuming = await self.arrival.keep_or_give_up(hello.seed_id)
        # Now, and with no wait after it: a fence that came meanwhile had nobody to tell.
        self._check_fence()
        self._listener = listener
        self._link_changed("connected")
        self.heard_from(hello.timeline, hello.flush_lsn)
        placed = self.following.placed
        store = self.opened_store
        seeder = self.arrival.seeder
        same = seeder is not None and seeder.seed_id == hello.seed_id
        return Resume(
            position=store.durable,
            known_timelines=tuple(store.histories()),
            seed_wanted=self._wants_seed(store) and not resuming,
            seed_id=seeder.seed_id if seeder is not None and same else "",
            seed_sequence=seeder.next_sequence if seeder is not None and same else 0,
            seed_done=placed is not None and placed.seed_id == hello.seed_id,
        )

    def _wants_seed(self, store: Store) -> bool:
        if self._seed_asked:
            return True
        placed = self.following.placed
        if placed is None:
            return self.settings.seed == "auto"
        # One that was asked for began a chain and never came to its end.
        return store.current_seed_id not in ("", placed.seed_id)

    async def _check_incarnation(self, profile: Profile) -> None:
        known = self.record.incarnation
        if known is None or known == profile.incarnation:
            check_same_segments(self.record.profile, profile)
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

    @property
    def is_connected(self) -> bool:
        """Whether a sender is there."""
        return self._listener is not None

    def _link_changed(self, state: str) -> None:
        if self.link.state != state:
            self.link.state = state
            self.link.since = time.time()

    # --- Intake: what is said of the primary ----------------------------------------------

    def heard_from(self, timeline: int, flush_lsn: int) -> None:
        """The primary's flush position and timeline, as the sender says."""
        now = time.time()
        self.link.heard_at = time.monotonic()
        if flush_lsn:
            self.heard = Heard(timeline=timeline, lsn=flush_lsn, at=now)
            self._note_exposure()

    def heard_with_span(self, timeline: int, flush_lsn: int) -> None:
        """The primary's flush position that came with WAL of `timeline`, which may be an older
        one than the primary is on: the sender is still catching up."""
        known = self.heard.timeline if self.heard is not None else 0
        self.heard_from(max(timeline, known), flush_lsn)

    def heartbeat(self, heartbeat: ShipperHeartbeat) -> None:
        self.link.primary_reachable = heartbeat.primary_reachable
        self.link.sync_state = heartbeat.sync_state
        self.link.slot_wal_status = heartbeat.slot_wal_status
        self.heard_from(heartbeat.timeline, heartbeat.flush_lsn)
        self.alarms.slot(heartbeat.slot_wal_status)
        if self.behind_since is not None and self._heard_is_due():
            # The flusher saves it too, but has nothing to do while the disk is full.
            self.host.spawn(self._save_heard())

    async def profile(self, profile: Profile) -> None:
        self._check_fence()
        check_profile(profile)
        if self.record.incarnation != profile.incarnation:
            assert self.record.incarnation is not None
            raise mismatch(self.record.incarnation, profile.incarnation)
        check_same_segments(self.record.profile, profile)
        if profile != self.record.profile:
            await self.remember(profile=profile)
            await self.following.primary_changed(profile)

    def _note_exposure(self) -> None:
        durable_now = self.store.durable if self.store is not None else None
        assert self.heard is not None
        if durable_now is not None and durable_now >= (self.heard.timeline, self.heard.lsn):
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = time.monotonic()

    def _heard_is_due(self) -> bool:
        return time.monotonic() - self._heard_saved_at >= HEARD_SAVE_SECONDS

    async def _save_heard(self) -> None:
        self._heard_saved_at = time.monotonic()
        if self.heard is not None and self.heard != self.record.heard:
            with contextlib.suppress(LogshipError):
                await self.remember(heard=self.heard)

    # --- Intake: WAL ----------------------------------------------------------------------

    async def history(self, timeline: int, content: bytes) -> None:
        self._check_fence()
        store = self.opened_store
        try:
            await store.add_history(timeline, content)
        except LogshipError as error:
            self._store_refused(store, error)
            raise
        log.info("a new timeline", instance=self.name, timeline=timeline)

    async def wal(self, timeline: int, start_lsn: int, data: bytes | memoryview) -> None:
        while True:
            self._check_fence()
            store = self.opened_store
            try:
                await store.append(timeline, start_lsn, data)
            except LogshipError as error:
                if error.code != Code.DISK_FULL:
                    self._store_refused(store, error)
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

    def _store_refused(self, store: Store, error: LogshipError) -> None:
        if error.code in (
            Code.WAL_CONFLICT,
            Code.BAD_WAL_PAGE,
            Code.STORE_FAILED,
            Code.TIMELINE_DIVERGED,
        ):
            self.alarms.raise_error(error)
        if error.code == Code.STORE_FAILED:
            self.host.spawn(self._reopen_store(store))

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
                self.host.spawn(self._reopen_store(store))
                return
            if self.heard is not None:
                self._note_exposure()
            if self._listener is not None:
                self._listener.positions_changed()
            if self._heard_is_due():
                # Beside the next flush: no ack waits for it.
                self.host.spawn(self._save_heard())

    async def _reopen_store(self, failed: Store) -> None:
        """After a failed fsync nothing in memory is believed: scan what is on the disk."""
        assert self.record.profile is not None
        async with self._store_turn:
            if self.store is not failed:
                return  # somebody else did it
            await self._close_store()
            while True:
                try:
                    await self._open_store(self.record.profile)
                except LogshipError as error:
                    self.alarms.raise_error(error)
                    await asyncio.sleep(FULL_DISK_RETRY_SECONDS)
                    continue
                break
        self.alarms.clear(Code.STORE_FAILED)

    @property
    def opened_store(self) -> Store:
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
                f"the primary can't go on from {missing}, where the store is: {gap.what}",
                f"the standby stays at what it has and can be promoted; to protect the "
                f"instance again: applier seed {self.name}",
            )
        )

    # --- Intake: seeds --------------------------------------------------------------------

    def request_seed(self, why: str) -> None:
        """Have the sender start a seed: now, or as soon as it comes.

        A sender whose WAL does not fit is refused over and over, and connected for moments
        only; a seed is what it needs.  Raises RefusedError: one is arriving already.
        """
        self._check_fence()
        # One that is complete but for WAL that will not come must not block the next for ever.
        if not self.arrival.give_up_abandoned(connected=self.is_connected):
            raise RefusedError(
                Code.SEED_FAILED, f"a seed of {self.name} is already arriving", "wait for it"
            )
        self._seed_asked = True
        if self._listener is not None:
            self._listener.seed_requested(why)

    async def seed_begin(self, frame: SeedBegin) -> None:
        self._check_fence()
        store = self.opened_store
        try:
            await self.arrival.begin(frame)
        except LogshipError as error:
            self._store_refused(store, error)
            raise
        self._seed_asked = False
        self.gap = None
        self.alarms.clear(Code.WAL_GAP)

    async def seed_chunk(self, frame: SeedChunk, payload: bytes | memoryview) -> None:
        self._check_fence()
        await self.arrival.chunk(frame, payload)

    async def seed_end(self, frame: SeedEnd) -> None:
        self._check_fence()
        await self.arrival.end(frame)

    async def seed_stopped(self, seed_id: str, code: str, what: str) -> None:
        await self.arrival.stopped(seed_id, code, what)

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
