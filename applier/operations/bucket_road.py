"""The second road into an instance: what the reader of its bucket sees of it.

The link has the word on the primary while it is connected, and the bucket is not read then,
unless WAL is missing that may lie there.  Whatever the bucket gives goes into the same store,
which compares it with what came by the link.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from applier.operations.shipper_sign import SignOfShipper
from applier.receivers import FencedError, Held, IntakeListener, Positions, Resume, ShipperSign
from applier.receivers.bucket.attachment import StartOver
from logship import status
from logship.errors import Code, LogshipError
from logship.frames import GapFound, Hello, SeedBegin, SeedChunk, SeedEnd, ShipperHeartbeat
from logship.identity import Incarnation, Profile
from logship.status import BucketState

if TYPE_CHECKING:
    from applier.operations.instance import Instance

log = structlog.get_logger(__name__)

LINK_PATIENCE_SECONDS = 5.0
"""How long a shipper that has a link may be away before the bucket is read in its place."""


class BucketRoad:
    """See `applier.receivers.BucketIntake`."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.sign = SignOfShipper(instance)
        self.is_open = False
        """Whether the instance is attached to a bucket, and the process reads it."""
        self.wake: Callable[[], None] = lambda: None
        """Tell the reader to ask again what is wanted."""
        self.hurry: Callable[[], None] = lambda: None
        """Tell the reader to look at once whether there is more."""
        self._listener: IntakeListener | None = None
        self._link_lost_at = time.monotonic()
        self._failure: LogshipError | None = None
        self._alarm: Code | None = None
        self._sealed: Code | None = None
        """The alarm that stands whether or not the bucket answers."""
        self._is_dry = False
        self._dried = asyncio.Event()

    # --- when to read -----------------------------------------------------------------------

    @property
    def is_attached(self) -> bool:
        return self._listener is not None

    def read_from(self) -> float | None:
        instance = self._instance
        if not self.is_open or instance.record.fence is not None:
            return None
        if instance.is_connected:
            seeding = instance.arrival.seeder is not None and instance.arrival.is_from_bucket
            return 0.0 if instance.gaps.hole is not None or seeding else None
        if not instance.settings.has_link:
            return 0.0
        return self._link_lost_at + LINK_PATIENCE_SECONDS

    def promoted(self) -> FencedError | None:
        promotion = self._instance.record.promotion
        if not self.is_open or promotion is None:
            return None
        return FencedError(promotion.at, promotion.opened_timeline, promotion.opened_lsn)

    def link_came(self) -> None:
        """It says anew what it lacks."""
        self._instance.gaps.forget_hole()
        self.sign.seen(None)
        self.wake()

    def link_went(self) -> None:
        self._instance.gaps.forget_hole()
        self._link_lost_at = time.monotonic()
        self.wake()

    def signed(self, seen: ShipperSign | None) -> None:
        self.sign.seen(seen)

    def bucket_dry(self) -> None:
        self._is_dry = True
        self._dried.set()
        self._instance.budget.bucket_is_dry()
        self._instance.gaps.bucket_is_dry()

    async def read_on(self, seconds: float) -> str:
        """Before a promotion: give what is still in the bucket `seconds` at most to come.

        Returns "" if nothing more is there, or if the bucket is not read in this instance's
        stead anyway, else in words why more may be.
        """
        if self._instance.is_connected or not self.is_open:
            return ""
        if self._failure is not None:
            return f"the bucket may have more, and can't be read: {self._failure.what}"
        if not self.is_attached:
            return ""
        try:
            async with asyncio.timeout(seconds):
                # The look that ends first may have begun before this was asked.
                for _ in range(2):
                    self._dried.clear()
                    self.hurry()
                    await self._dried.wait()
        except TimeoutError:
            return f"the bucket may have more: its end was not reached within {seconds:g} s"
        return ""

    # --- what went wrong --------------------------------------------------------------------

    def bucket_failed(self, error: LogshipError) -> None:
        alarms = self._instance.alarms
        self._failure = error
        if self._alarm not in (None, error.code):
            self._clear_alarm()
        if self._alarm == error.code or not alarms.has(error.code):
            # Else somebody else raised it, and it is not over when the bucket answers.
            alarms.raise_error(error)
            self._alarm = error.code

    def bucket_answers(self) -> None:
        self._failure = None
        self._clear_alarm()

    def bucket_sealed(self, error: LogshipError | None) -> None:
        if error is not None:
            self._instance.alarms.raise_error(error)
            self._sealed = error.code
        elif self._sealed is not None:
            if self._sealed != self._alarm:
                self._instance.alarms.clear(self._sealed)
            self._sealed = None

    def _clear_alarm(self) -> None:
        if self._alarm is not None:
            if self._alarm != self._sealed:
                self._instance.alarms.clear(self._alarm)
            self._alarm = None

    def status(self) -> status.BucketStatus | None:
        """As the status document shows it."""
        if not self.is_open:
            return None
        error = self._failure.what if self._failure is not None else None
        return {"state": self._state(), "error": error, "alive_at": self.sign.sent_at}

    def _state(self) -> BucketState:
        if self._failure is not None:
            return "failed"
        if not self.is_attached:
            start = self.read_from()
            # Nothing of the instance may be there yet: it is looked for.
            wanted = start is not None and start <= time.monotonic()
            return "reading" if wanted else "idle"
        return "up-to-date" if self._is_dry else "reading"

    # --- Intake -----------------------------------------------------------------------------

    @property
    def incarnation(self) -> Incarnation | None:
        return self._instance.record.incarnation

    @property
    def accepted(self) -> Incarnation | None:
        return self._instance.record.accepted

    def look_again(self) -> None:
        """Another cluster may be read from now on."""
        if self._listener is not None:
            self._listener.failed(StartOver("another cluster is let in"))
        self.wake()

    async def hello(self, hello: Hello, listener: IntakeListener) -> Resume:
        instance = self._instance
        believed = self._is_believed(hello)
        resume = await instance.primary.admit(hello, believed=believed, from_bucket=True)
        self._listener = listener
        self._is_dry = False
        if not instance.is_connected:
            instance.link.changed("bucket")
        return resume

    def _is_believed(self, hello: Hello) -> bool:
        """Whether its profile counts: the link knows better, if there is one."""
        instance = self._instance
        return not instance.is_connected and not instance.sender.is_left_behind(hello.timeline)

    def lost(self, listener: IntakeListener, why: str) -> None:
        if listener is not self._listener:
            return
        self._listener = None
        self._instance.budget.bucket_is_dry()
        if not self._instance.is_connected:
            self._instance.link.changed("lost")
        log.info("the bucket is let go of", instance=self._instance.name, why=why)

    def tell_fenced(self, error: FencedError) -> None:
        listener, self._listener = self._listener, None
        self.sign.seen(None)
        if listener is not None:
            listener.fenced(error)
        self.wake()

    def tell_failed(self, error: LogshipError) -> None:
        if self._listener is not None:
            self._listener.failed(error)

    def held(self) -> Held | None:
        store = self._instance.store
        chain = store.current_extent() if store is not None else None
        if chain is None:
            return None
        timeline, (start, end) = chain
        return Held(timeline, start, end, self._instance.following.placed is not None)

    def positions(self) -> Positions | None:
        return self._instance.positions()

    async def history(self, timeline: int, content: bytes) -> None:
        await self._instance.history(timeline, content)

    async def wal(self, timeline: int, start_lsn: int, data: bytes | memoryview) -> None:
        self._is_dry = False
        self._instance.budget.comes_from_bucket(len(data))
        await self._instance.wal(timeline, start_lsn, data)

    def wal_at_once(self, timeline: int, start_lsn: int, data: bytes | memoryview) -> bool:
        return self._instance.wal_at_once(timeline, start_lsn, data)

    async def profile(self, profile: Profile) -> None:
        if not self._instance.is_connected:
            await self._instance.primary.take_up(profile)

    def heard_from(self, timeline: int, flush_lsn: int) -> None:
        """A bucket says nothing of now: `heard_with_span`."""

    def heard_with_span(self, timeline: int, flush_lsn: int, at: float = 0.0) -> None:
        self._instance.sender.heard_then(timeline, flush_lsn, at)

    def heartbeat(self, heartbeat: ShipperHeartbeat) -> None:
        """Nobody sends one through a bucket."""

    def gap_found(self, gap: GapFound) -> None:
        self._instance.gaps.found(gap)

    async def seed_begin(self, frame: SeedBegin) -> None:
        await self._instance.seed_begin(frame, from_bucket=True)

    async def seed_chunk(self, frame: SeedChunk, payload: bytes | memoryview) -> None:
        await self._instance.seed_chunk(frame, payload)

    async def seed_end(self, frame: SeedEnd) -> None:
        await self._instance.seed_end(frame)

    async def seed_stopped(self, seed_id: str, code: str, what: str) -> None:
        await self._instance.seed_stopped(seed_id, code, what)
