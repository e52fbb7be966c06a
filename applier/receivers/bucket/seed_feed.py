"""A seed out of a bucket into an intake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import structlog

from applier.receivers import FencedError
from applier.receivers.bucket.attachment import Attachment, Reading
from applier.receivers.bucket.contents import Contents
from logship.bucket.seed_archive import SeedInfo, read_seed
from logship.errors import Code, LogshipError
from logship.frames import SeedBegin, SeedChunk, SeedEnd
from logship.threads import run_to_the_end

log = structlog.get_logger(__name__)

SeedFrame = SeedBegin | SeedChunk | SeedEnd


class SeedFeed:
    """Hands on one seed at a time.  The end of a seed takes long and goes on beside the WAL that
    follows: `is_ending`, then `ended` is called."""

    def __init__(
        self,
        attachment: Attachment,
        reading: Reading,
        ended: Callable[[Exception | None], None],
    ) -> None:
        self.failed_ids: set[str] = set()
        """Seeds that could not be used; another one is better tried first."""
        self._attachment = attachment
        self._reading = reading
        self._ended = ended
        self._ending: asyncio.Task[None] | None = None
        self._begun = False
        self._done = 0
        self._given = False

    @property
    def is_ending(self) -> bool:
        return self._ending is not None

    async def take(self, contents: Contents, info: SeedInfo) -> None:
        """Hand on a seed; returns when all of it was given.

        Raises LogshipError: what the intake says, or OBJECT_DAMAGED, IDENTITY_MISSING,
        BUCKET_REFUSED.  A bucket that does not answer is waited for.
        """
        intake, seed_id = self._attachment.intake, info.begin.seed_id
        self._begun, self._done, self._given = False, 0, False
        try:
            if info.profile is not None:
                await intake.profile(info.profile)
            while not self._given:
                # Read again it gives the same frames; what was handed on is passed over.
                await self._hand_on(contents, info)
        except FencedError:
            raise
        except LogshipError as error:
            self.failed_ids.add(seed_id)
            await intake.seed_stopped(seed_id, str(error.code), error.what)
            raise

    async def _hand_on(self, contents: Contents, info: SeedInfo) -> None:
        """Until the frames end, or the bucket does not answer."""
        threads = self._reading.threads
        frames = read_seed(contents.store, contents.keys, info, contents.identities)
        try:
            while True:
                try:
                    got = await run_to_the_end(threads, lambda: next(frames, None))
                except LogshipError as error:
                    if error.code is not Code.BUCKET_UNREACHABLE:
                        raise
                    self._attachment.intake.bucket_failed(error)
                    await asyncio.sleep(self._reading.poll_seconds)
                    return
                if got is None:
                    return
                self._attachment.answered()
                await self._frame(*got)
        finally:
            await run_to_the_end(threads, lambda: _close(frames))

    async def _frame(self, frame: SeedFrame, payload: bytes) -> None:
        intake = self._attachment.intake
        match frame:
            case SeedBegin():
                if not self._begun:
                    await intake.seed_begin(frame)
                    self._begun = True
            case SeedChunk(sequence=sequence):
                if sequence >= self._done:
                    await intake.seed_chunk(frame, payload)
                    self._done = sequence + 1
            case SeedEnd():
                self._given = True
                self._ending = asyncio.create_task(self._end(frame))

    async def _end(self, end: SeedEnd) -> None:
        """Not in the way of WAL: what a standby runs on stays until the seed can be opened."""
        failure: Exception | None = None
        try:
            await self._attachment.intake.seed_end(end)
            self.failed_ids.clear()
        except Exception as error:
            self.failed_ids.add(end.seed_id)
            failure = error
        self._ending = None
        self._ended(failure)

    async def stop(self) -> None:
        """Wait for no end any more; the intake goes on with it."""
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)


def _close(frames: Iterator[tuple[SeedFrame, bytes]]) -> None:
    close = getattr(frames, "close", None)
    if close is not None:
        close()
