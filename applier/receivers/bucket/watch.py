"""Looks at the shipper's sign of life while an instance's bucket is read."""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog

from applier.receivers import BucketIntake
from applier.receivers.bucket.attachment import Reading
from applier.receivers.bucket.signs import RETRY_SECONDS, Signs
from logship.bucket.sign_of_life import read_sign
from logship.errors import Code, LogshipError
from logship.objects import ObjectStore

log = structlog.get_logger(__name__)


class Watch:
    """From `start` to `stop`, and again.  A sign that is there is looked at as often as it is
    renewed; where there is none, once, and when `look` says so."""

    def __init__(
        self, instance: str, intake: BucketIntake, store: ObjectStore, reading: Reading
    ) -> None:
        self._instance = instance
        self._intake = intake
        self._store = store
        self._reading = reading
        self._signs = Signs(instance, store.name, reading.poll_seconds)
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure: Code | None = None
        """Said once: the bucket as such has an alarm of its own."""

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self._signs.forget()
            self._intake.signed(None)

    def look(self) -> None:
        """There may be one now."""
        if not self._signs.is_expected:
            self._wanted.set()

    async def _run(self) -> None:
        while True:
            self._wanted.clear()
            try:
                await self._look()
                pause = self._signs.pause_seconds
            except Exception:
                log.exception("a bug while looking for a sign of life", instance=self._instance)
                pause = RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()

    async def _look(self) -> None:
        loop, began_at = asyncio.get_running_loop(), time.monotonic()
        try:
            sign = await loop.run_in_executor(
                self._reading.threads, read_sign, self._store, self._instance
            )
        except LogshipError as error:
            if error.code != self._failure:
                log.info(
                    "the sign of life was not read", instance=self._instance, **error.as_dict()
                )
            self._failure = error.code
            self._signs.failed()
        else:
            self._failure = None
            self._signs.came(sign, began_at)
        self._intake.signed(self._signs.standing())
