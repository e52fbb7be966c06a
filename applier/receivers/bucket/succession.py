"""Whether a bucket goes on with another cluster under the instance's name, as after an upgrade
to a new major version: what is read then never gets anything more, and nothing else says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

import structlog

from applier.receivers.bucket.attachment import Attachment
from applier.receivers.bucket.contents import Contents, newer_incarnation
from applier.receivers.bucket.follower import now
from logship.errors import Code, LogshipError
from logship.identity import Incarnation
from logship.lsn import Position

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 600.0
"""After so long without WAL the bucket is looked through; then after twice that, and so on."""
MAX_LOOK_SECONDS: Final = 86400.0


class Succession:
    """One attachment's look-outs."""

    def __init__(
        self,
        contents: Contents,
        attachment: Attachment,
        threads: Executor,
        on_idle: Callable[[], None],
    ) -> None:
        """on_idle: called with each look that a long time without WAL leads to."""
        self._contents = contents
        self._attachment = attachment
        self._threads = threads
        self._on_idle = on_idle
        self._stands_at: Position | None = None
        self._pause_seconds = LOOK_SECONDS
        self._due_at = 0.0
        self._look: asyncio.Task[None] | None = None

    def dry(self, position: Position | None) -> None:
        """Nothing is there behind `position`, up to which all was read."""
        if position != self._stands_at:
            self._stands_at, self._pause_seconds = position, LOOK_SECONDS
            self._due_at = now() + LOOK_SECONDS
        elif now() >= self._due_at and (self._look is None or self._look.done()):
            self._pause_seconds = min(2 * self._pause_seconds, MAX_LOOK_SECONDS)
            self._due_at = now() + self._pause_seconds
            self._look = asyncio.create_task(self._look_now())

    async def _look_now(self) -> None:
        self._on_idle()
        try:
            await self.look()
        except LogshipError as error:
            log.info("the bucket was not looked through", **error.as_dict())

    async def look(self) -> None:
        """Two requests and more.  Raises LogshipError: of the store."""
        contents, since = self._contents, self._attachment.heard_at
        known = contents.keys.incarnation
        newer = await asyncio.get_running_loop().run_in_executor(
            self._threads,
            lambda: newer_incarnation(contents.store, contents.keys.instance, known, since),
        )
        if newer is not None and newer == self._attachment.intake.accepted:
            self._attachment.start_over(f"{newer} is there, which is let in")
            return
        error = _mismatch(contents, known, newer) if newer is not None else None
        self._attachment.superseded_by(error)

    def stop(self) -> None:
        if self._look is not None:
            self._look.cancel()


def _mismatch(contents: Contents, known: Incarnation, newer: Incarnation) -> LogshipError:
    same = known.system_identifier == newer.system_identifier
    return LogshipError(
        Code.MAJOR_MISMATCH if same else Code.SYSTEM_IDENTIFIER_MISMATCH,
        f"{contents.store.name} goes on with cluster {newer}, this instance is {known}: no more "
        "WAL of it is to be expected",
        "if it is to take this one's place, as after pg_upgrade: "
        f"applier accept {contents.keys.instance} {newer}; else give it its own instance name",
    )
