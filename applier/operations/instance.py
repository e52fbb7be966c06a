"""One instance: what receivers feed, what standbys stream from, what is promoted.

The WAL path is short: `wal` writes, the store's subscribers (the WAL server) send it on at
once, the store syncs it, and the receiver is told what became durable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import structlog

from applier.fleet.places import IncarnationPlaces, Volumes, check_mounted
from applier.operations.alarms import Alarms
from applier.operations.arrival import Arrival
from applier.operations.bucket_road import BucketRoad
from applier.operations.budget import Budget
from applier.operations.following import Following
from applier.operations.former import FormerClusters
from applier.operations.gaps import Gaps
from applier.operations.host import Host
from applier.operations.incarnations import Incarnations
from applier.operations.keeping import Keeping
from applier.operations.kept_incarnations import left_out
from applier.operations.last_drill import LastDrill
from applier.operations.primary import Primary
from applier.operations.record import (
    Fence,
    Heard,
    InstanceRecord,
    load_record,
    save_record,
)
from applier.operations.retention import Retention
from applier.operations.sender import LinkState, Sender
from applier.operations.tablespaces import Tablespaces
from applier.receivers import FencedError, IntakeListener, Positions, Resume
from applier.receivers.seed.placement import recover_placement
from applier.settings import InstanceSettings
from applier.store import Store
from logship import durable
from logship.errors import Code, LogshipError
from logship.frames import (
    GapFound,
    Hello,
    SeedBegin,
    SeedChunk,
    SeedEnd,
    ShipperHeartbeat,
)
from logship.identity import Incarnation, Profile

log = structlog.get_logger(__name__)

FULL_DISK_RETRY_SECONDS = 1.0
NO_ROOM = (Code.DISK_FULL, Code.DISK_QUOTA)
"""WAL waits for room; its sender is held back by it."""


class Instance:
    """See `applier.receivers.Intake` for the calls of receivers.

    Call `open` first and `close` last.  Everything runs in one event loop.
    """

    def __init__(self, name: str, host: Host) -> None:
        self.name = name
        self.host = host
        self.directory = host.places(name).home
        self.alarms = Alarms(name)
        self.last_drill = LastDrill(self.directory)
        self.sender = Sender(self)
        self.record = InstanceRecord(name=name)
        self.keeping = Keeping(self)
        self.primary = Primary(self)
        self.budget = Budget(self)
        self.gaps = Gaps(self)
        self.tablespaces = Tablespaces(self)
        self.following = Following(self)
        self.arrival = Arrival(self)
        self.retention = Retention(self)
        self.bucket = BucketRoad(self)
        self.incarnations = Incarnations(self)
        self.former = FormerClusters(self)
        self._failure: LogshipError | None = None
        self.leaving: LogshipError | None = None
        """That it is being removed; only who removes it may take that back."""
        self._listener: IntakeListener | None = None
        self._record_turn = asyncio.Lock()
        self.promotion_turn = asyncio.Lock()
        """Held while a promotion runs, or what must not run beside one."""

    @property
    def settings(self) -> InstanceSettings:
        """As they are now: an operator may change them."""
        return self.host.settings.instances[self.name]

    @property
    def failure(self) -> LogshipError | None:
        """Why the instance could not be opened, or that it is being removed: nothing is received
        or promoted while it stands."""
        return self.leaving or self._failure

    @failure.setter
    def failure(self, why: LogshipError | None) -> None:
        # An attempt to open it that is under way does not end its being removed.
        self._failure = why

    # --- life -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Take up what is on disk: record, store, an interrupted seed, the standby.

        Raises LogshipError (STORE_LOCKED, STORE_DAMAGED, …); `close`, and it may be tried again.
        """
        try:
            await asyncio.to_thread(durable.make_directory, self.directory, 0o711)
            async with self._record_turn:
                self.record = await asyncio.to_thread(load_record, self.directory, self.name)
            self.sender.recall(self.record.heard)
            await self.take_up_cluster()
        except OSError as error:
            raise LogshipError(
                Code.STORE_FAILED,
                f"{self.directory} can't be used: {error}",
                "look at the disk and its messages",
                retryable=True,
            ) from error
        self.failure = None
        self.former.go_on_removing()

    async def take_up_cluster(self) -> None:
        """Store and standby of the cluster that the record names, if it names one."""
        self.following = Following(self)
        if self.record.incarnation is not None and self.record.profile is not None:
            check_mounted(self.places, self.record.volumes)
            await asyncio.to_thread(recover_placement, self.incarnation_directory)
            await self.keeping.open(self.record.profile)
            await self.following.open()

    async def leave_cluster(self) -> None:
        """Its store is closed; its server is left as it is."""
        await self.following.close()
        await self.keeping.close()

    async def close(self) -> None:
        """Leave the standby running, let go of everything else."""
        await self.sender.save_heard()
        await self.arrival.give_up("the applier stops")
        await self.arrival.removed()
        await self.leave_cluster()

    @property
    def places(self) -> IncarnationPlaces:
        """Where the files of the incarnation are, which must be known."""
        assert self.record.incarnation is not None
        return self.places_of(self.record.incarnation, self.record.volumes)

    def places_of(self, incarnation: Incarnation, volumes: Volumes) -> IncarnationPlaces:
        """Where the files of one of its clusters are."""
        return self.host.places(self.name).of(incarnation, volumes)

    @property
    def incarnation_directory(self) -> Path:
        """Of the standby's files; its WAL may be on another volume."""
        return self.places.standby

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in the background that ends, at the latest, with the instance."""
        return self.host.spawn(work, self.name)

    async def remember(self, **changes: object) -> None:
        """Change the record, durably, before returning.  A cancelled caller changes it too."""
        await self.revise(lambda _: changes)

    async def revise(self, changes_of: Callable[[InstanceRecord], dict[str, Any]]) -> None:
        """As `remember`, where the changes depend on what the record is by then."""
        await self.host.to_the_end(self._remember(changes_of), self.name)

    async def _remember(self, changes_of: Callable[[InstanceRecord], dict[str, Any]]) -> None:
        # One after the other: two at once would each write the record without the other's
        # change, and the one that is lost may be the fence.
        async with self._record_turn:
            record = msgspec.structs.replace(self.record, **changes_of(self.record))
            await asyncio.to_thread(save_record, self.directory, record)
            self.record = record

    @property
    def link(self) -> LinkState:
        return self.sender.link

    @property
    def heard(self) -> Heard | None:
        """The last that was heard of the primary's flush position."""
        return self.sender.heard

    @property
    def store(self) -> Store | None:
        return self.keeping.store

    # --- Intake: who sends ----------------------------------------------------------------

    async def hello(self, hello: Hello, listener: IntakeListener) -> Resume:
        resume = await self.primary.admit(hello)
        self._listener = listener
        self.sender.connected(hello)
        self.bucket.link_came()
        return self.budget.sender_came(hello, resume)

    def check_usable(self) -> None:
        """It could be opened, and is not being removed."""
        if self.failure is not None:
            raise self.failure

    def lost(self, listener: IntakeListener, why: str) -> None:
        if listener is not self._listener:
            return
        self._listener = None
        self.budget.sender_left()
        self.link.changed("bucket" if self.bucket.is_attached else "lost")
        self.bucket.link_went()
        self.alarms.clear(Code.DISK_FULL)
        log.warning("the shipper is gone", instance=self.name, why=why)

    @property
    def link_listener(self) -> IntakeListener | None:
        """Who feeds the instance by the link."""
        return self._listener

    @property
    def is_connected(self) -> bool:
        """Whether a sender is there, on the link."""
        return self._listener is not None

    @property
    def has_primary(self) -> bool:
        """Whether a sender is there that reaches its primary: without it no seed goes on."""
        return self.is_connected and self.link.primary_reachable is not False

    # --- Intake: what is said of the primary ----------------------------------------------

    def heard_from(self, timeline: int, flush_lsn: int) -> None:
        self.sender.heard_from(timeline, flush_lsn)

    def heard_with_span(self, timeline: int, flush_lsn: int, at: float = 0.0) -> None:
        self.sender.heard_with_span(timeline, flush_lsn)

    def heartbeat(self, heartbeat: ShipperHeartbeat) -> None:
        self.sender.heartbeat(heartbeat)
        self.alarms.slot(heartbeat.slot_wal_status)

    async def profile(self, profile: Profile) -> None:
        await self.primary.profile(profile)

    # --- Intake: WAL ----------------------------------------------------------------------

    async def history(self, timeline: int, content: bytes) -> None:
        self.check_fence()
        store = self.opened_store
        try:
            await store.add_history(timeline, content)
        except LogshipError as error:
            self.keeping.refused(store, error)
            raise
        await self.following.timeline_came()
        log.info("a new timeline", instance=self.name, timeline=timeline)

    async def wal(self, timeline: int, start_lsn: int, data: bytes | memoryview) -> None:
        await self.budget.wait()
        if created := self.tablespaces.created_in(timeline, start_lsn, data):
            await self.tablespaces.note(created)
        while True:
            self.check_fence()
            if self.sender.set_aside_profile is not None:
                await self.primary.heed_set_aside(timeline)
            store = self.opened_store
            try:
                await self.budget.check_room(len(data))
                await store.append(timeline, start_lsn, data)
            except LogshipError as error:
                if error.code not in NO_ROOM:
                    self.keeping.refused(store, error)
                    raise
                self.alarms.raise_error(error)
                await asyncio.sleep(FULL_DISK_RETRY_SECONDS)
                continue
            break
        self._wal_came(store, len(data))

    def wal_at_once(self, timeline: int, start_lsn: int, data: bytes | memoryview) -> bool:
        self.check_fence()
        store = self.store
        if store is None or self.sender.set_aside_profile is not None:
            return False
        if self.tablespaces.created_in(timeline, start_lsn, data):
            return False  # `wal` notes it first
        if not self.budget.is_free(len(data)):
            return False
        try:
            if store.append_at_once(timeline, start_lsn, data) is None:
                return False
        except LogshipError as error:
            if error.code == Code.DISK_FULL:
                return False  # `wal` waits for room
            self.keeping.refused(store, error)
            raise
        self._wal_came(store, len(data))
        return True

    def _wal_came(self, store: Store, size_bytes: int) -> None:
        self.budget.came(size_bytes, store.written)
        for code in NO_ROOM:
            self.alarms.clear(code)
        self.gaps.wal_came()

    @property
    def opened_store(self) -> Store:
        """Raises LogshipError (STORE_FAILED, retryable): it is being opened again."""
        return self.keeping.opened

    def became_durable(self, store: Store) -> None:
        """More of what was received is on the disk."""
        if self._listener is not None:
            self._listener.positions_changed()
        self.following.serving.stored(store)
        self.sender.note_exposure()
        self.sender.save_now_and_then()

    def positions(self) -> Positions | None:
        store = self.store
        if store is None or store.written is None or store.durable is None:
            return None
        return Positions(store.written, store.durable, self.following.serving.applied_lsn)

    def standby_moved(self) -> None:
        """The standby reported another position."""
        if self._listener is not None:
            self._listener.applied_changed()

    def gap_found(self, gap: GapFound) -> None:
        self.budget.caught_up()
        self.gaps.found_on_link(gap)

    # --- Intake: seeds --------------------------------------------------------------------

    def request_seed(self, why: str) -> None:
        """Have the sender start a seed: now, or as soon as it comes.

        A sender whose WAL does not fit is refused over and over, and connected for moments
        only; a seed is what it needs.  Raises RefusedError: one is arriving already.
        """
        self.check_seed_possible()
        self.arrival.asked_of_link = True
        if self._listener is not None and self.budget.may_seed():
            self._listener.seed_requested(why)

    def check_seed_possible(self) -> None:
        """Raises RefusedError: one is arriving already."""
        self.check_fence()
        self.arrival.check_possible()

    async def seed_begin(self, frame: SeedBegin, *, from_bucket: bool = False) -> None:
        if from_bucket:
            await self.budget.seed_comes_from_bucket()
        try:
            self.check_fence()
            store = self.opened_store
            if from_bucket:
                await self.remember(bucket_seed_id=frame.seed_id)
        except BaseException:
            self.budget.turn.done("seed")
            raise
        try:
            await self.arrival.begin(frame, from_bucket=from_bucket)
        except LogshipError as error:
            self.keeping.refused(store, error)
            raise
        self.alarms.clear(Code.DISK_QUOTA)
        self.gaps.over()
        await self.primary.heed_set_aside(frame.timeline)

    async def seed_chunk(self, frame: SeedChunk, payload: bytes | memoryview) -> None:
        self.check_fence()
        await self.arrival.chunk(frame, payload)

    async def seed_end(self, frame: SeedEnd) -> None:
        self.check_fence()
        await self.arrival.end(frame)

    async def seed_stopped(self, seed_id: str, code: str, what: str) -> None:
        await self.arrival.stopped(seed_id, code, what)

    def tell_failed(self, error: LogshipError) -> None:
        """Have whoever feeds the instance begin anew, with a hello."""
        if self._listener is not None:
            self._listener.failed(error)
        self.bucket.tell_failed(error)

    # --- the fence ------------------------------------------------------------------------

    async def fence(self, reason: str) -> None:
        """From now on nothing of the old line is accepted, also after a crash."""
        if self.record.fence is None:
            fence = Fence(at=time.time(), reason=reason, left=left_out(self.record))
            await self.remember(fence=fence, heard=self.heard)
        self.tell_fenced()

    async def unfence(self) -> None:
        """Take the fence back: the promotion failed before anything was opened."""
        await self.remember(fence=None)
        self.bucket.wake()

    def tell_fenced(self) -> None:
        listener, self._listener = self._listener, None
        self.budget.sender_left()
        if listener is not None:
            self.link.changed("lost")
            listener.fenced(self._fenced_error())
        self.bucket.tell_fenced(self._fenced_error())

    def check_fence(self) -> None:
        """Raises FencedError."""
        if self.record.fence is not None:
            raise self._fenced_error()

    def _fenced_error(self) -> FencedError:
        fence, promotion = self.record.fence, self.record.promotion
        assert fence is not None
        if promotion is None:
            return FencedError(fence.at, 0, 0)
        return FencedError(fence.at, promotion.opened_timeline, promotion.opened_lsn)
