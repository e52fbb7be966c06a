"""The bucket as a destination: connects, takes what is shipped, says what is stored."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final

import structlog

from logship.bucket.epoch import Epoch, this_writer
from logship.bucket.keys import Keys, Place
from logship.bucket.wal_objects import Marker
from logship.errors import Code, LogshipError
from logship.frames import (
    MAX_SPAN_BYTES,
    GapFound,
    Payload,
    SeedAborted,
    SeedBegin,
    SeedChunk,
    SeedEnd,
)
from logship.identity import Profile
from logship.lsn import Lsn, Position
from logship.objects import ObjectStore
from logship.seal import Sealed
from logship.threads import DaemonThreads
from shipper.backoff import Reminder
from shipper.destinations import (
    Accepted,
    Acked,
    DestinationEvent,
    Facts,
    Lost,
    Rewind,
    SeedFinished,
    SeedWanted,
)
from shipper.destinations.bucket.alive import SignsOfLife, Threads
from shipper.destinations.bucket.chain import Found, look
from shipper.destinations.bucket.claim import check_claim, is_before
from shipper.destinations.bucket.log import BucketLog
from shipper.destinations.bucket.objects import BucketObjects, MetAnotherError, PackedWal, Seal
from shipper.destinations.bucket.options import BucketOptions
from shipper.destinations.bucket.remembered import (
    HINT_NAME,
    Parted,
    Remembered,
    load_hint,
    save_hint,
)
from shipper.destinations.bucket.seeds import BucketSeeds, PatientStore, SeedTaker
from shipper.destinations.bucket.segments import BucketSegments
from shipper.destinations.bucket.wishes import LOOK_SECONDS, ORDER_NAME, SeedWishes

log = structlog.get_logger(__name__)

HINT_SECONDS: Final = 10.0
"""How old the remembered end of the log may be: so much a restart has to follow."""

CLOSE_SECONDS: Final = 2.0
"""For so long a connection that is closed waits for uploads under way.  Those that take longer
are compared with what comes next, or shipped again by the next process."""

MakeSeedTaker = Callable[[ObjectStore, Keys, Profile], SeedTaker]


class BucketDestination:
    """See `shipper.destinations.Destination`."""

    far_end = "the bucket"

    def __init__(
        self,
        store: ObjectStore,
        options: BucketOptions,
        *,
        seal: Seal,
        make_seed_taker: MakeSeedTaker,
    ) -> None:
        self._store = store
        self._options = options
        self._seal = seal
        self._make_seed_taker = make_seed_taker
        self._loop = asyncio.get_running_loop()
        writer = this_writer(options.shipper_id, options.boot_id)
        self._epoch = Epoch(
            store,
            options.instance,
            writer,
            options.state_directory / "epoch.json",
            confirm_seconds=options.confirm_seconds,
        )
        self._hint_file = options.state_directory / HINT_NAME
        self._hint: Remembered | None = None
        self._hint_saved_at = 0.0
        self._threads = DaemonThreads(options.uploads_at_once + 3, "bucket")
        self._state_thread = ThreadPoolExecutor(1, thread_name_prefix="bucket-state")
        """State files are written here, one after the other."""
        self._busy: set[asyncio.Future[None]] = set()
        self._seeds = BucketSeeds(self._in_thread, self._seed_ended)
        self._segments = BucketSegments(
            self._in_thread,
            self._write_state,
            options.state_directory / "bucket-segments.json",
            grace_seconds=options.compact_grace_seconds,
            sealed=options.sealed,
        )
        self._wishes = SeedWishes(
            options.state_directory / ORDER_NAME, options.seed_every_hours * 3600
        )
        self._signs = SignsOfLife(
            store,
            options.instance,
            self._epoch,
            options.state_directory,
            Threads(self._in_thread, self._write_state),
            every_seconds=options.alive_every_seconds,
            took_over=options.take_over,
            is_parted=lambda: self.standing() is not None,
            on_over=self._failed,
        )
        self._wishes_timer: asyncio.TimerHandle | None = None
        self._begun: SeedBegin | None = None
        """The newest seed, until it fails or the log has passed its start."""
        self._sent: SeedBegin | None = None
        """The newest seed."""
        self._seeded_lsn = 0
        """Where the newest seed starts that was completed here."""
        self._events: deque[DestinationEvent] = deque()
        self._acked: Acked | None = None
        self._changed = asyncio.Event()
        self._keys: Keys | None = None
        self._profile: Profile | None = None
        self._log: BucketLog | None = None
        self._stored: Place | None = None
        """Up to here everything is stored; kept over connections."""
        self._led_to_lsn = 0
        """The log leads to a seed from here, and none from here on is complete: 0 if not so."""
        self._reminder = Reminder()
        self._distrusted: Place | None = None
        self._parted: Parted | None = None
        """The primary is no continuation of the log; kept over connections."""
        self._is_claimed = options.take_over
        """The log was compared with the primary, or an operator says that they belong together."""

    # --- connecting -----------------------------------------------------------------------

    async def connect(self, facts: Facts) -> Accepted:
        self._drop()
        # A seed goes on over cuts; what became of it is said once.
        self._events = deque(each for each in self._events if isinstance(each, SeedFinished))
        self._acked = None
        self._signs.tell(facts)
        if not facts.ships:
            # Nobody looks into a bucket for that, but for a sign of life.
            self._signs.go_on()
            return Accepted(None, frozenset(), False, MAX_SPAN_BYTES)
        if self._busy:
            # What an earlier connection still has on its way would be met as a stranger's.
            await asyncio.wait(self._busy)
        keys = Keys(self._options.instance, facts.profile.incarnation)
        if self._keys != keys:
            self._stored = self._distrusted = self._begun = self._parted = None
            self._led_to_lsn = self._seeded_lsn = 0
        segment_bytes = facts.profile.wal_segment_size
        found = await self._look(keys, segment_bytes, facts)
        self._keys, self._profile = keys, facts.profile
        objects = BucketObjects(
            self._store,
            keys,
            self._epoch,
            seal=self._seal,
            segment_bytes=segment_bytes,
            protection=self._options.protection,
        )
        self._segments.use(objects)
        self._log = BucketLog(
            objects,
            found.chain,
            self._parted,
            facts,
            self._options.limits,
            self._run_blocking,
            on_stored=self._on_stored,
            on_failed=self._failed,
        )
        durable = self._log.position
        if found.chain is not None:
            self._stored = found.chain.place
        self._led_to_lsn = found.led_to_lsn
        self._wishes.found(found.seeded_at)
        self._look_for_wishes()
        if self._begun is not None and self._log.turn_to(self._begun, mend=False) is not None:
            durable = None
        parted = self._parted = self._log.parted
        if parted is not None:
            self._warn_of(parted)
            durable = None
        self._signs.go_on()
        return Accepted(
            position=self._log.position if parted is None else None,
            known_timelines=found.timelines,
            seed_wanted=self._is_seed_missing(found) and not self._seeds.seed_id and not parted,
            max_span_bytes=MAX_SPAN_BYTES,
            durable=durable,
            seeding=bool(self._seeds.seed_id),
        )

    async def _look(self, keys: Keys, segment_bytes: int, facts: Facts) -> Found:
        def blocking() -> None:
            hint = self._known or load_hint(self._hint_file, self._store.name, keys.incarnation)
            if not self._is_claimed:
                # Before it is taken: who only is a copy must not stop the one that writes.
                check_claim(self._store, keys, segment_bytes, self._epoch, hint, facts)
                self._is_claimed = facts.reachable
            is_told = self._options.take_over and not self._epoch.number
            self._epoch.take(take_over=self._options.take_over)
            found = look(self._store, keys, segment_bytes, hint=hint, distrusted=self._distrusted)
            primary = Position(facts.timeline, facts.flush_lsn)
            if is_told and found.chain is not None and is_before(primary, found.chain.place):
                # The next start is not told, and the primary may still be behind.
                self._epoch.stand_in(found.chain.place)
            looked.append(found)
            self._parted = _still(hint.parted if hint else None, found)

        looked: list[Found] = []
        await self._run_blocking(blocking)
        return looked[0]

    def _warn_of(self, parted: Parted) -> None:
        if self._reminder.due(f"{parted.place} {parted.code}"):
            error = parted.as_error(self._store.name)
            log.error("this primary is no continuation of the bucket's log", **error.as_dict())

    def standing(self) -> LogshipError | None:
        """See `shipper.destinations.MayStand`: the primary is no continuation of the log."""
        parted = self._log.parted if self._log is not None else self._parted
        return parted.as_error(self._store.name) if parted is not None else None

    @staticmethod
    def _is_seed_missing(found: Found) -> bool:
        """Whether who reads this log has nothing to begin with, or to go on with over a gap."""
        return found.seeded_at is None or bool(found.led_to_lsn)

    async def close(self, reason: str) -> None:
        self._drop()
        self._segments.stop()
        if self._hint_due:
            self._save_hint()
        if self._busy:
            await asyncio.wait(self._busy, timeout=CLOSE_SECONDS)
        await self._write_state(lambda: None)  # what was given to be written before is written

    # --- sending --------------------------------------------------------------------------

    def tell(self, facts: Facts) -> None:
        self._signs.tell(facts)
        if self._log is not None:
            self._log.facts, self._profile = facts, facts.profile

    async def room(self, size_bytes: int) -> None:
        while True:
            opened = self._open_log()
            in_flight_bytes = opened.in_flight_bytes
            if not in_flight_bytes or in_flight_bytes + size_bytes <= self._options.window_bytes:
                return
            opened.hurry()
            await self._changed.wait()

    def resume(self, position: Position) -> None:
        if self._log is not None:
            self._log.resume(position)

    def skip_to(self, position: Position, why: str) -> Position:
        """See `shipper.destinations.several.destination.SpillDestination`."""
        opened = self._open_log()
        if (error := self.standing()) is not None:
            self._failed(error)
            raise error
        return opened.skip_to(position, why)

    def send_span(self, timeline: int, start_lsn: int, sealed: Sealed, flush_lsn: int) -> None:
        opened = self._open_log()
        if not opened.span(timeline, start_lsn, sealed, flush_lsn):
            assert opened.position is not None
            why = f"{timeline}:{Lsn(start_lsn)} does not go on where the bucket's log ends"
            self._tell_event(Rewind(opened.position, why))

    def send_history(self, timeline: int, content: bytes) -> None:
        self._open_log().history(timeline, content)

    def send_gap(self, gap: GapFound) -> None:
        opened = self._open_log()
        opened.gap(gap)
        if opened.parted is not None and opened.parted != self._parted:
            self._parted = opened.parted
            self._warn_of(opened.parted)
            if self._known is not None:
                self._save_hint()
        if self._begun is not None:
            self._rewind_to_seed(opened, self._begun, mend=False)

    # --- seeds ----------------------------------------------------------------------------

    async def send_seed(
        self, frame: SeedBegin | SeedChunk | SeedEnd | SeedAborted, payload: Payload
    ) -> None:
        match frame:
            case SeedBegin():
                if self._keys is None or self._profile is None:
                    raise LogshipError(
                        Code.SEED_FAILED, "the bucket was never reached", retryable=True
                    )
                self._begin_seed(frame, self._keys, self._profile)
            case SeedAborted():
                self._seeds.abort(frame)
                self._seed_failed(frame.seed_id)
            case SeedChunk() | SeedEnd():
                await self._seeds.add(frame, payload)

    def _begin_seed(self, frame: SeedBegin, keys: Keys, profile: Profile) -> None:
        store = PatientStore(self._store, self._epoch)
        self._seeds.begin(frame, self._make_seed_taker(store, keys, profile), store.stop)
        self._begun = self._sent = frame
        self._write_state(self._wishes.begun)
        if self._log is not None:
            self._rewind_to_seed(self._log, frame, mend=True)

    def _rewind_to_seed(self, opened: BucketLog, begin: SeedBegin, *, mend: bool) -> None:
        position = opened.turn_to(begin, mend=mend)
        if position is not None:
            self._tell_event(Rewind(position, "a seed begins here"))
        elif opened.parted is not None:
            log.warning(
                "the seed begins before the end of the bucket's log, which can't go on with it",
                end=str(opened.parted.place.lsn),
                hint="on the primary: SELECT pg_switch_wal(), if it is past the end; "
                "then `shipper seed`",
            )

    def _look_for_wishes(self) -> None:
        if self._log is not None:
            ordered_only = self._log.parted is not None
            if not self._seeds.seed_id and (
                why := self._wishes.due(time.time(), ordered_only=ordered_only)
            ):
                self._tell_event(SeedWanted(why))
            self._wishes_timer = self._loop.call_later(LOOK_SECONDS, self._look_for_wishes)

    def _seed_ended(self, seed_id: str, error: str) -> None:
        if error:
            self._seed_failed(seed_id)
        else:
            self._wishes.finished(time.time())
            self._led_to_lsn = 0
            if self._sent is not None and self._sent.seed_id == seed_id:
                self._seeded_lsn = self._sent.start_lsn
        self._tell_event(SeedFinished(seed_id, error))

    def _seed_failed(self, seed_id: str) -> None:
        """The log must not be led to it any more."""
        if self._begun is not None and self._begun.seed_id == seed_id:
            self._begun = None

    # --- what becomes of it ---------------------------------------------------------------

    async def next_event(self) -> DestinationEvent:
        while True:
            if self._acked is not None:
                acked, self._acked = self._acked, None
                return acked
            if self._events:
                return self._events.popleft()
            await self._changed.wait()

    def _tell_event(self, event: DestinationEvent) -> None:
        self._events.append(event)
        self._notify()

    def _notify(self) -> None:
        # Each of those who wait looks for itself.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _on_stored(self, place: Place, last: PackedWal | Marker) -> None:
        self._stored = place
        begun = self._begun
        if begun is not None and place > Place(begun.timeline, Lsn(begun.start_lsn)):
            self._begun = None
        if self._distrusted is not None and place > self._distrusted:
            self._distrusted = None
        if self._parted is not None and place > self._parted.place:
            self._parted = None
        if isinstance(last, Marker):
            if last.kind == "seed" and last.lsn > self._seeded_lsn:
                self._led_to_lsn = last.lsn
        else:
            self._segments.stored(last)
            position = Position(place.timeline, place.lsn)
            self._acked = Acked(position, position, Lsn(0))
        self._notify()
        if self._hint_due and self._loop.time() - self._hint_saved_at >= HINT_SECONDS:
            self._hint_saved_at = self._loop.time()
            self._save_hint()

    @property
    def _known(self) -> Remembered | None:
        if self._stored is None:
            return None
        return Remembered(self._stored, self._led_to_lsn, self._parted)

    @property
    def _hint_due(self) -> bool:
        return self._keys is not None and self._known not in (None, self._hint)

    def _save_hint(self) -> None:
        known, keys = self._known, self._keys
        assert known is not None and keys is not None

        def save() -> None:
            save_hint(self._hint_file, self._store.name, keys.incarnation, known)

        self._hint = known
        self._write_state(save)

    def _failed(self, error: LogshipError) -> None:
        if isinstance(error, MetAnotherError):
            self._distrusted = error.place
        self._drop()
        self._tell_event(Lost(error))

    def _open_log(self) -> BucketLog:
        if self._log is None:
            raise LogshipError(Code.LINK_LOST, "the bucket is away", retryable=True)
        return self._log

    def _drop(self) -> None:
        if self._wishes_timer is not None:
            self._wishes_timer.cancel()
        self._signs.pause()
        opened, self._log = self._log, None
        if opened is not None:
            opened.stop()
        self._notify()

    # --- threads --------------------------------------------------------------------------

    async def _run_blocking(self, action: Callable[[], None]) -> None:
        # It goes on when nobody waits any more: a thread can't be stopped.
        future = self._in_thread(action)
        self._busy.add(future)
        future.add_done_callback(self._busy.discard)
        await asyncio.shield(future)

    def _in_thread(self, action: Callable[[], None]) -> asyncio.Future[None]:
        return self._started(self._threads, action)

    def _write_state(self, action: Callable[[], None]) -> asyncio.Future[None]:
        return self._started(self._state_thread, action)

    def _started(self, threads: Executor, action: Callable[[], None]) -> asyncio.Future[None]:
        future = self._loop.run_in_executor(threads, action)
        # One that nobody waits for any more must not be reported as a forgotten error.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future


def _still(parted: Parted | None, found: Found) -> Parted | None:
    """Nothing, once the log goes on beyond the place."""
    if parted is None or found.chain is None or found.chain.place > parted.place:
        return None
    return parted
