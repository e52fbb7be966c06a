"""A reader's standing with its intake: hello and goodbye, and what it says besides WAL."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from applier.receivers import BucketIntake, IntakeListener, Resume
from logship.bucket.wal_objects import Head
from logship.errors import Code, LogshipError
from logship.frames import GapFound, Hello
from logship.lsn import Position


class Reading(NamedTuple):
    """How a bucket is read."""

    poll_seconds: float
    prefetch_bytes: int
    """What may be fetched ahead, of all instances together."""
    instances: Sized
    """Those that share it."""
    threads: ThreadPoolExecutor
    """Where requests are made."""

    @property
    def window_bytes(self) -> int:
        """What may be fetched ahead for one instance, as many as there are now."""
        return max(self.prefetch_bytes // max(len(self.instances), 1), 1)


class StartOver(Exception):
    """What the intake holds is not what the reader supposed."""


class Attachment:
    """Attached or not; `failure` says why not, if something is wrong.

    `hello`, `position` and `profile_digest` are what the intake was told, or said, last.
    """

    def __init__(self, intake: BucketIntake, listener: IntakeListener) -> None:
        self.intake = intake
        self.is_attached = False
        self.failure: LogshipError | None = None
        self.position: Position | None = None
        self.profile_digest = ""
        self._hello: Hello | None = None
        self._listener = listener
        self._turn = asyncio.Lock()
        self._gap: GapFound | None = None
        self.heard_at = 0.0
        """When what was read last was made, by the shipper's clock."""
        self._superseded: LogshipError | None = None

    @property
    def hello(self) -> Hello:
        assert self._hello is not None, "attach first"
        return self._hello

    async def attach(self, hello: Hello) -> Resume:
        """Raises what `Intake.hello` does."""
        self._hello = hello
        resume = await self.intake.hello(hello, self._listener)
        self.is_attached = True
        self.answered()
        return resume

    async def attach_again(self) -> None:
        """After a failure of the bucket alone: nothing else has changed.  Raises StartOver if it
        has."""
        async with self._turn:
            if self.is_attached:
                return
            resume = await self.attach(self.hello)
            if resume.position != self.position:
                raise StartOver(f"the instance is at {resume.position}")

    def start_over(self, why: str) -> None:
        """Have what is there looked up again, from the hello on."""
        self._listener.failed(StartOver(why))

    def let_go(self, why: str) -> None:
        if self.is_attached:
            self.is_attached = False
            self.intake.lost(self._listener, why)

    def failed(self, error: LogshipError) -> None:
        """Nothing can be handed on now."""
        self.failure = error
        self.let_go(error.what)
        self.intake.bucket_failed(error)

    def answered(self) -> None:
        """The bucket, and what was asked for in it, is fine."""
        self.failure = self._superseded
        if self._superseded is not None:
            self.intake.bucket_failed(self._superseded)
        else:
            self.intake.bucket_answers()

    def superseded_by(self, error: LogshipError | None) -> None:
        """Nothing more is to come: it is said until WAL does.  None: that is not so."""
        self._superseded = error
        self.answered()

    def not_asked(self) -> None:
        """The bucket is not wanted now: whether it answers is not known any more."""
        if self.failure is not None and self.failure.retryable:
            self.answered()

    def proved(self, before: Collection[Code]) -> None:
        """Beside what is read, the bucket answered, and what is in it can be opened; `before`
        was in the way of that."""
        if self.failure is None or self.failure.code in before:
            self.answered()

    def tell_heard(self, head: Head) -> None:
        """What an object says of the primary, which was so when it was made."""
        self.heard_at = max(self.heard_at, head.sent_at)
        if head.flush_lsn:
            timeline = head.flush_timeline or head.timeline
            self.intake.heard_with_span(timeline, head.flush_lsn, head.sent_at)

    def report_gap(self, gap: GapFound) -> None:
        """Once, until WAL comes again."""
        if gap != self._gap:
            self._gap = gap
            self.intake.gap_found(gap)

    def wal_came(self) -> None:
        self._gap = self._superseded = None
