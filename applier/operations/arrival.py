"""A seed on its way in: from its first frame to the standby that runs on it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from applier.operations.kept_seeds import KeptSeeds
from applier.operations.pace import Pace
from applier.receivers.seed.receiver import SeedOutOfOrderError, SeedReceiver
from logship.errors import Code, LogshipError, RefusedError
from logship.frames import SeedBegin, SeedChunk, SeedEnd
from logship.lsn import Lsn, Position
from logship.wal import segment_start

if TYPE_CHECKING:
    from applier.operations.instance import Instance

log = structlog.get_logger(__name__)

SWAP_TRIES = 5
RETRY_SECONDS = 1.0
DURABLE_POLL_SECONDS = 0.2


class Arrival:
    """At most one seed at a time.  `seeder` is None when none is arriving.

    The end of a seed is a task of its own: it takes long, WAL must flow on meanwhile, and a
    connection that is lost must not leave the standby down between two data directories.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.seeder: SeedReceiver | None = None
        self.pace = Pace()
        """Of what `seeder` receives."""
        self.kept = KeptSeeds(instance)
        self.is_from_bucket = False
        """Whether `seeder` is fed from a bucket: who comes by the link must not end it."""
        self.asked_of_link = False
        """An operator wants one of the link's shipper, and none has begun there since."""
        self._beginning = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self._removing: asyncio.Task[None] | None = None
        self._waits_for_wal = False
        self._alarm: Code | None = None

    def is_wanted(self, *, from_bucket: bool) -> bool:
        """Whether the sender that came is to bring one.  What is the link's to bring a bucket
        does not: its seeds are older, and nobody asked for them."""
        instance = self._instance
        if self.asked_of_link and not from_bucket:
            return True
        placed = instance.following.placed
        if placed is None:
            return instance.settings.seed == "auto"
        # One that was asked for began a chain and never came to its end.
        begun = instance.opened_store.current_seed_id
        if from_bucket and begun != instance.record.bucket_seed_id:
            return False
        return begun not in ("", placed.seed_id)

    def check_possible(self) -> None:
        """Raises RefusedError: one is arriving already, and is not forgotten for another."""
        instance = self._instance
        from_bucket = self.is_from_bucket and instance.bucket.is_attached
        # One that is complete but for WAL that will not come must not block the next for ever.
        if not self.give_up_abandoned(connected=instance.has_primary or from_bucket):
            raise RefusedError(
                Code.SEED_FAILED, f"a seed of {instance.name} is already arriving", "wait for it"
            )

    async def begin(self, frame: SeedBegin, *, from_bucket: bool = False) -> None:
        """Make room for the seed and begin its chain of WAL.  Raises LogshipError: no seed."""
        instance = self._instance
        incarnation = instance.record.incarnation
        try:
            async with self._beginning:  # they come by two roads, and have one place to work in
                await self.give_up("another seed began")
                await self.removed()
                # That may have taken long.
                instance.check_fence()
                if instance.record.incarnation != incarnation:
                    raise LogshipError(
                        Code.SEED_FAILED,
                        f"the seed {frame.seed_id} is of another cluster than {instance.name} is "
                        "by now",
                        retryable=True,
                    )
                await self._begin(frame, from_bucket)
        except BaseException:
            if self.seeder is None:
                instance.budget.turn.done("seed")
            raise

    async def _begin(self, frame: SeedBegin, from_bucket: bool) -> None:
        instance = self._instance
        profile = instance.record.profile
        assert profile is not None
        seeder = SeedReceiver(
            instance.incarnation_directory,
            run_as=instance.host.run_as,
            keep_free_bytes=instance.host.keep_free_bytes,
            system_identifier=profile.system_identifier,
        )
        start = segment_start(frame.start_lsn, profile.wal_segment_size)
        instance.budget.turn.take("seed")
        try:
            await instance.budget.check_room(frame.estimated_bytes)
            await seeder.begin(frame)
            placed = instance.following.placed
            if seeder.recovered is not None and (
                placed is None or placed.seed_id != seeder.recovered.seed_id
            ):
                # The swap of the seed before this one had failed, and is finished now.
                await instance.following.seeded()
            instance.check_fence()
            await instance.opened_store.begin_chain(frame.timeline, start, seed_id=frame.seed_id)
        except BaseException:
            # Without its chain the seed must not go on, not on the next connection either.
            self._removing = asyncio.create_task(self._remove(seeder))
            await self.removed()
            raise
        self.seeder, self.is_from_bucket, self.pace = seeder, from_bucket, Pace()
        self.pace.arrived(0, time.monotonic())
        if not from_bucket:
            self.asked_of_link = False
        await self.kept.begin(frame)
        instance.following.serving.chain_began()
        self._clear_alarm()
        log.info("a seed begins", instance=instance.name, seed_id=frame.seed_id, start=str(start))

    async def chunk(self, frame: SeedChunk, payload: bytes | memoryview) -> None:
        budget = self._instance.budget
        self._known(frame.seed_id)
        await budget.check_room(frame.raw_bytes)
        try:
            seeder = self._known(frame.seed_id)
            budget.turn.take("seed")
            await seeder.chunk(frame, payload)
            self.pace.arrived(seeder.received_bytes, time.monotonic())
        except LogshipError as error:
            if self.seeder is not None and self.seeder.failure is not None:
                await self._broke(error)
            raise
        budget.came(frame.raw_bytes, None)
        await self.kept.chunk(frame, payload)

    async def end(self, frame: SeedEnd) -> None:
        """Returns when the standby runs on the seed.  Said again, waits for the same."""
        if self._ending is None:
            self._known(frame.seed_id)
            self._ending = self._instance.spawn(self._end(frame))
        await asyncio.shield(self._ending)

    async def stopped(self, seed_id: str, code: str, what: str) -> None:
        """The sender gave it up."""
        if self.seeder is not None and self.seeder.seed_id == seed_id:
            known = Code(code) if code in set(Code) else Code.SEED_FAILED
            await self._broke(LogshipError(known, what, retryable=True))

    async def keep_or_give_up(self, seed_id: str, *, from_bucket: bool = False) -> bool:
        """A sender came that holds the seed `seed_id` ("": none).  True: no other is wanted.

        from_bucket: a reader of the bucket came, which begins every seed anew.  What arrives by
        the other road is left alone.
        """
        if self._ending is not None:
            return True  # all of it is here
        if self.seeder is not None and self.is_from_bucket != from_bucket:
            return True
        if self.seeder is not None and not from_bucket and self.seeder.seed_id == seed_id:
            return True
        await self.give_up("the shipper started over")
        return False

    def give_up_abandoned(self, *, connected: bool) -> bool:
        """The standby is wanted as it is: forget a seed that can't be waited for; its files are
        removed in the background.

        False: there is one whose sender is here, or that is just being put in place.
        """
        if self.seeder is None:
            return True
        if self._ending is not None and self._waits_for_wal:
            self._ending.cancel()
        elif connected or self._ending is not None:
            return False
        self._instance.spawn(self.give_up("its shipper is gone, the standby is wanted"))
        return True

    async def give_up(self, why: str) -> None:
        """Forget the seed that is arriving, if any, and remove what there is of it: to the end,
        also if the caller is cancelled."""
        if self.seeder is None:
            return
        seeder, self.seeder = self.seeder, None
        self._instance.budget.turn.done("seed")
        name = self._instance.name
        log.warning("gave up a seed", instance=name, seed_id=seeder.seed_id, why=why)
        self._removing = asyncio.create_task(self._give_up(seeder))
        await self.removed()

    async def removed(self) -> None:
        """Returns when nothing of a seed that was given up is being removed any more."""
        if self._removing is not None:
            await asyncio.wait({self._removing})

    async def _give_up(self, seeder: SeedReceiver) -> None:
        await self.kept.give_up()
        await self._remove(seeder)

    async def _remove(self, seeder: SeedReceiver) -> None:
        try:
            await seeder.abort()
        except LogshipError as error:
            # What is left of it is removed when the next seed begins.
            log.warning("could not remove an unfinished seed", **error.as_dict())

    # --- its end ------------------------------------------------------------------------------

    async def _end(self, frame: SeedEnd) -> None:
        seeder = self._known(frame.seed_id)
        try:
            await self._put_in_place(seeder, frame)
            self.seeder = None
            self.kept.end(frame)
            log.info("the seed is in place", instance=self._instance.name, seed_id=frame.seed_id)
            await self._instance.following.seeded()
        finally:
            self._ending = None
            self._instance.budget.turn.done("seed")

    async def _put_in_place(self, seeder: SeedReceiver, frame: SeedEnd) -> None:
        async def before_swap() -> None:
            await self._wait_until_recoverable(frame)
            await self._instance.following.stop()

        for tries_left in reversed(range(SWAP_TRIES)):
            try:
                await seeder.end(frame, before_swap=before_swap)
            except SeedOutOfOrderError:
                raise
            except LogshipError as error:
                # A verified seed is too dear to be thrown away because a server was slow
                # to stop.
                if seeder.is_verified and tries_left:
                    log.warning("the seed is not in place yet", **error.as_dict())
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                await self._broke(error)
                raise
            return

    async def _wait_until_recoverable(self, frame: SeedEnd) -> None:
        """What a standby runs on now is not given up for a seed that could not be opened yet:
        it needs WAL up to the backup's end to be consistent.  Nor while what was there before is
        still being removed: the swap removes the same."""
        if self._instance.following.placed is None:
            return
        wanted = Position(frame.timeline, Lsn(frame.end_lsn))
        self._waits_for_wal = True
        try:
            while True:
                store = self._instance.store
                durable = store.durable_of(frame.seed_id) if store is not None else None
                if durable is not None and durable >= wanted:
                    await self._instance.following.leave_previous()
                    return
                await asyncio.sleep(DURABLE_POLL_SECONDS)
        finally:
            self._waits_for_wal = False

    # --- when it fails ------------------------------------------------------------------------

    def _known(self, seed_id: str) -> SeedReceiver:
        if self.seeder is None or self.seeder.seed_id != seed_id:
            raise LogshipError(
                Code.SEED_FAILED, f"seed {seed_id} is not known here any more", retryable=False
            )
        return self.seeder

    async def _broke(self, error: LogshipError) -> None:
        self._clear_alarm()
        self._alarm = error.code
        self._instance.alarms.raise_error(error)
        await self.give_up(error.what)

    def _clear_alarm(self) -> None:
        if self._alarm is not None:
            self._instance.alarms.clear(self._alarm)
            self._alarm = None
