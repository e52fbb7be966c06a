"""One instance's reader: when to read the bucket, as whom to say hello, seed or WAL."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import structlog

from applier.receivers import BucketIntake, FencedError
from applier.receivers.bucket.attachment import Attachment, Reading, StartOver
from applier.receivers.bucket.contents import Contents, choose_incarnation, make_hello
from applier.receivers.bucket.cursor import MAX_PAUSE_SECONDS
from applier.receivers.bucket.follower import Follower, now
from applier.receivers.bucket.seed_feed import SeedFeed
from applier.receivers.bucket.seeds import Choice, Leads, Loss, leads, newest_usable
from applier.receivers.bucket.succession import Succession
from applier.receivers.bucket.watch import Watch
from logship.bucket.epoch_record import Fence, fence_epoch
from logship.bucket.keys import Keys
from logship.bucket.seed_archive import Opens, SeedInfo
from logship.bucket.wal_objects import Marker
from logship.errors import Code, LogshipError, RefusedError
from logship.identity import Profile
from logship.lsn import Position
from logship.objects import ObjectStore

log = structlog.get_logger(__name__)

MAX_SEED_PAUSE_SECONDS: Final = 10.0
"""Between looks for a seed, or a cluster, that is not there yet."""


MAX_PROOF_PAUSE_SECONDS: Final = 300.0


class SeedOrder(NamedTuple):
    """An operator wants the instance seeded from what the reader reads."""

    why: str


class BucketReader:
    """Feeds one instance from the objects under its name.  Is its intake's `IntakeListener`.

    `run` until it is cancelled.  `wake` when something changed that `BucketIntake` tells of.

    order: take a seed, hand on what follows it, and end.  elsewhere: whether another store leads
    from one position to another; blocking.
    """

    def __init__(
        self,
        instance: str,
        intake: BucketIntake,
        store: ObjectStore,
        identities: Opens,
        reading: Reading,
        *,
        order: SeedOrder | None = None,
        elsewhere: Leads | None = None,
    ) -> None:
        self.instance = instance
        self.store = store
        self._intake = intake
        self._identities = identities
        self._reading = reading
        self._order = order
        self._once = order is not None
        self._elsewhere = elsewhere
        self._attachment = Attachment(intake, self)
        self._seeds = SeedFeed(self._attachment, reading, self._seed_ended)
        self._watch = Watch(instance, intake, store, reading)
        self._follower: Follower | None = None
        self._seed_marker: Marker | None = None
        self._seed_at: float | None = None
        """When to look (again) for a seed that is wanted."""
        self._is_done = False
        self._fence_told = False
        self._failures = 0
        self._woken = asyncio.Event()

    @property
    def is_attached(self) -> bool:
        """Whether the intake is fed from here now."""
        return self._attachment.is_attached

    @property
    def failure(self) -> LogshipError | None:
        """Why nothing comes although the bucket is wanted."""
        return self._attachment.failure

    # --- life -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read whenever the bucket is wanted.  Returns only if `once`; raises LogshipError then,
        where what was wanted is not there."""
        proving: asyncio.Task[None] | None = None
        try:
            error = await self._prove()
            if error is not None:
                proving = asyncio.create_task(self._prove_later(error))
            while not self._is_done:
                await self._until_wanted()
                fence = self._fence_to_tell()
                if fence is not None:
                    await self._fence(fence)
                else:
                    await self._read_once()
        finally:
            if proving is not None:
                proving.cancel()
            if not self._once:
                self._intake.bucket_sealed(None)
            self._watch.stop()
            self._attachment.let_go("the bucket is not read any more")
            await self._seeds.stop()

    def wake(self) -> None:
        self._woken.set()
        if self._follower is not None:
            self._follower.wake()

    def hurry(self) -> None:
        """Look now whether there is more, rather than with the next poll."""
        if self._follower is not None:
            self._follower.hurry()

    def order_seed(self, order: SeedOrder) -> None:
        """Seed the instance from the newest seed that can be recovered."""
        self._order = order
        self.wake()

    async def usable_seed(self) -> SeedInfo:
        """The seed that an order would take now.  Raises LogshipError: SEED_FAILED if there is
        none, of the store, …"""
        contents = await self._aside(self._find)
        profile = await self._aside(contents.newest_profile) if contents is not None else None
        if contents is None or profile is None:
            raise no_seed(self.store, self.instance)
        choice = await self._choose(contents, profile)
        if choice.seed is None:
            raise self._no_seed(choice)
        return choice.seed

    def leads(self, start: Position, end: Position) -> bool:
        """Whether the bucket has WAL from `start`, where a segment does, up to `end`.  Blocking."""
        contents = self._find()
        profile = contents.newest_profile() if contents is not None else None
        if contents is None or profile is None:
            return False
        segment_bytes = profile.wal_segment_size
        return leads(contents, contents.look(start, segment_bytes), start, end, segment_bytes)

    def _is_wanted(self) -> bool:
        if self._is_done:
            return False
        if self._order is not None or self._once:
            return True
        start = self._start()
        return start is not None and start <= time.monotonic()

    def _start(self) -> float | None:
        """When the bucket is wanted: after a promotion never."""
        return self._intake.read_from() if self._intake.promoted() is None else None

    def _fence_to_tell(self) -> FencedError | None:
        return None if self._fence_told else self._intake.promoted()

    async def _until_wanted(self) -> None:
        if not self._is_wanted():
            self._watch.stop()
        while not self._is_wanted() and self._fence_to_tell() is None:
            self._attachment.not_asked()
            self._woken.clear()
            start = self._start()
            await self._sleep(None if start is None else max(0.0, start - time.monotonic()))
        if self._is_wanted() and not self._once:
            self._watch.start()

    async def _sleep(self, seconds: float | None) -> None:
        """Until then, or until `wake`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()

    async def _prove(self) -> LogshipError | None:
        """That what is in the bucket can be opened: now, not in the middle of a disaster."""
        error: LogshipError | None = None
        try:
            contents = await self._aside(self._find)
            if contents is not None:
                await self._aside(contents.prove)
        except LogshipError as caught:
            error = caught
        if not self._once and (error is None or error.code is Code.IDENTITY_MISSING):
            self._intake.bucket_sealed(error)
        if error is not None and not self.is_attached and self.failure is None:
            # Else what reads it has the word.
            self._intake.bucket_failed(error)
        return error

    async def _prove_later(self, error: LogshipError | None) -> None:
        """The bucket did not answer, or has what can't be opened: again, until all can be.  What
        is refused, or damaged, may be mended too."""
        pause = self._reading.poll_seconds
        before = set()
        while error is not None:
            before.add(error.code)
            await asyncio.sleep(pause if error.retryable else MAX_PROOF_PAUSE_SECONDS)
            error = await self._prove()
            if error is None:
                self._attachment.proved(before)
            pause = min(2 * pause, MAX_PROOF_PAUSE_SECONDS)

    async def _fence(self, error: FencedError) -> None:
        """Tell whoever still writes to the bucket; best effort, and again until it is said."""
        fence = Fence(at=error.at, timeline=error.timeline, lsn=error.lsn)
        try:
            await self._aside(lambda: fence_epoch(self.store, self.instance, fence))
        except LogshipError as failure:
            log.warning("the bucket is not fenced yet", **failure.as_dict())
            await self._pause()
        else:
            log.info("the bucket is fenced", instance=self.instance, bucket=self.store.name)
            self._fence_told = True

    async def _read_once(self) -> None:
        try:
            await self._read()
        except StartOver as reason:
            log.info("reads the bucket anew", instance=self.instance, why=str(reason))
            self._attachment.let_go(str(reason))
            await self._pause()
        except FencedError as error:
            self._attachment.failure = error
            self._attachment.let_go(error.what)
            await self._pause()
        except LogshipError as error:
            self._attachment.failed(error)
            if self._once and not error.retryable:
                raise
            await self._pause()
        except Exception as error:
            self._attachment.failed(_bug(error))
            await self._pause()

    async def _pause(self) -> None:
        pause = min(self._reading.poll_seconds * float(1 << self._failures), MAX_PAUSE_SECONDS)
        self._failures = min(self._failures + 1, 16)
        self._woken.clear()
        await self._sleep(pause)

    # --- one attachment ---------------------------------------------------------------------

    async def _read(self) -> None:
        """From a hello to the end of it."""
        contents = await self._until_found()
        if contents is None:
            return
        positions = self._intake.positions()
        durable = positions.durable if positions is not None else None
        greeting = await self._aside(lambda: make_hello(contents, durable))
        if greeting.newest is not None:
            self._attachment.heard_at = greeting.newest.sent_at
        succession = Succession(contents, self._attachment, self._reading.threads, self._watch.look)
        await succession.look()
        # Then without a pause: what the intake says is heard by a follower, or a feed.
        resume = await self._attachment.attach(greeting.hello)
        self._watch.look()
        self._attachment.profile_digest = greeting.profile_digest
        if greeting.newest is not None:
            self._attachment.tell_heard(greeting.newest)
        self._seed_at = now() if resume.seed_wanted else None
        resumes = str(resume.position) if resume.position else "needs a seed"
        log.info("reads a bucket", instance=self.instance, bucket=self.store.name, resume=resumes)
        try:
            while self._is_wanted():
                if self._is_seed_due or self._intake.positions() is None:
                    await self._seed(contents)
                else:
                    await self._follow(contents, succession)
        finally:
            succession.stop()
        self._attachment.let_go("the bucket is not wanted any more")

    async def _until_found(self) -> Contents | None:
        """The cluster under the instance's name; None: not wanted before one was there."""
        pause = self._reading.poll_seconds
        while True:
            contents: Contents | None = await self._aside(self._find)
            if contents is not None:
                # What failed before is over once more of it was read, not because it is listed.
                return contents
            self._attachment.answered()
            if not self._is_wanted():
                return None
            await self._sleep(pause)
            pause = min(2 * pause, MAX_SEED_PAUSE_SECONDS)

    def _find(self) -> Contents | None:
        intake = self._intake
        chosen = choose_incarnation(self.store, self.instance, intake.incarnation, intake.accepted)
        if chosen is None:
            return None
        return Contents(self.store, Keys(self.instance, chosen), self._identities)

    async def _follow(self, contents: Contents, succession: Succession) -> None:
        follower = self._follower = Follower(contents, self._attachment, self._reading)

        def goes_on() -> bool:
            if follower.ran_dry:
                self._failures = 0
                positions = self._intake.positions()
                succession.dry(positions.received if positions is not None else None)
                # The end of a seed goes on without us, and may need WAL that is not here.
                self._is_done = self._once
            return self._is_wanted() and not self._is_seed_due

        try:
            await follower.run(goes_on)
        finally:
            self._follower = None
        self._seed_marker = follower.seed_marker

    # --- seeds ------------------------------------------------------------------------------

    @property
    def _is_seed_due(self) -> bool:
        if self._order is not None or self._seed_marker:
            return True
        return self._seed_at is not None and now() >= self._seed_at

    async def _seed(self, contents: Contents) -> None:
        """Take the seed that a marker leads to, or the newest that can be recovered; waits until
        there is one, if nothing else is to be done."""
        marker = self._seed_marker
        self._seed_at = None
        if self._seeds.is_ending and self._order is None:
            # One is here, and is being put in place; we are woken when it is.
            await self._sleep(MAX_SEED_PAUSE_SECONDS if marker else self._reading.poll_seconds)
            return
        profile, pause = self._attachment.hello.profile, self._reading.poll_seconds
        while self._is_wanted():
            ordered = self._order is not None  # perhaps since we wait
            choice = await self._choose(contents, profile, None if ordered else marker)
            self._attachment.answered()
            if choice.seed is not None:
                self._seed_marker, self._order = None, None
                await self._seeds.take(contents, choice.seed)
                return
            if ordered:
                self._order = None
                raise self._no_seed(choice)
            if not marker and self._intake.positions() is not None:
                # WAL goes on without it.
                self._seed_at = now() + MAX_SEED_PAUSE_SECONDS
                return
            await self._sleep(pause)
            pause = min(2 * pause, MAX_SEED_PAUSE_SECONDS)

    async def _choose(
        self, contents: Contents, profile: Profile, marker: Marker | None = None
    ) -> Choice:
        held, avoid = self._intake.held(), frozenset(self._seeds.failed_ids)
        choice: Choice = await self._aside(
            lambda: newest_usable(
                contents, profile, held, elsewhere=self._elsewhere, marker=marker, avoid=avoid
            )
        )
        return choice

    def _no_seed(self, choice: Choice) -> RefusedError:
        if choice.refused is None:
            return no_seed(self.store, self.instance)
        return would_lose(self.store, self.instance, choice.refused)

    def _seed_ended(self, error: Exception | None) -> None:
        if isinstance(error, LogshipError):
            # The intake has said it; another seed is looked for.
            log.warning("a seed from a bucket failed", instance=self.instance, **error.as_dict())
            self._seed_at = now()
        elif error is not None:
            self._attachment.failed(_bug(error))
        self.wake()

    # --- IntakeListener ---------------------------------------------------------------------

    def positions_changed(self) -> None:
        """Nobody is waiting at the other end of a bucket."""

    def applied_changed(self) -> None:
        """Nobody is waiting at the other end of a bucket."""

    def resume(self, position: Position, why: str) -> None:
        """The cursor finds its way itself."""

    def seed_requested(self, why: str) -> None:
        if self.is_attached:
            self.order_seed(SeedOrder(why))

    def fenced(self, error: FencedError) -> None:
        self.failed(error)

    def failed(self, error: Exception) -> None:
        if self.is_attached and self._follower is not None:
            self._follower.throw(error)

    async def _aside(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._reading.threads, work)


def no_seed(store: ObjectStore, instance: str) -> RefusedError:
    """Nothing was begun."""
    return RefusedError(
        Code.SEED_FAILED,
        f"{store.name} has no complete seed of {instance} that can be recovered",
        "have one taken on the production host: shipper seed",
    )


def would_lose(store: ObjectStore, instance: str, refused: Loss) -> RefusedError:
    """The newest seed is too old for the WAL that is there."""
    seed, end = refused
    return RefusedError(
        Code.SEED_FAILED,
        f"the seed {seed.begin.seed_id} of {store.name} begins at "
        f"{Position(seed.timeline, seed.start_lsn)}, where WAL is not held any more, and what "
        f"leads from there to {end} is not all there: the standby that runs would be cut off",
        "have a newer one taken on the production host (shipper seed), or order it again when the "
        f"bucket has all WAL up to {end}",
    )


def _bug(error: BaseException) -> LogshipError:
    log.error("a bug while reading a bucket", exc_info=error)
    return LogshipError(
        Code.INTERNAL,
        f"the applier failed: {type(error).__name__}",
        "its log has the details; please report them",
        retryable=True,
    )
