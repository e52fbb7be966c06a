"""What all instances of one recovery server share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog

from applier.operations.sharing import Sharing
from applier.settings import ApplierSettings
from applier.walserver.server import WalServer
from logship.errors import LogshipError
from logship.postgres.installations import Installation
from logship.postgres.run_as import RunAs

log = structlog.get_logger(__name__)


class Host:
    """The recovery server as instances see it: settings, installations, the WAL server."""

    def __init__(
        self,
        settings: ApplierSettings,
        run_as: RunAs,
        installations: list[Installation],
        wal_server: WalServer,
    ) -> None:
        self.settings = settings
        self.run_as = run_as
        self.installations = installations
        self.wal_server = wal_server
        self.keep_free_bytes = settings.store.keep_free_mb << 20
        self.sharing = Sharing(settings.budgets, lambda: self.settings.instances)
        self._tasks: set[asyncio.Task[Any]] = set()

    def instance_directory(self, name: str) -> Path:
        return self.settings.directory / "instances" / name

    @property
    def probe_cache(self) -> Path:
        """Where it is remembered what each installation makes."""
        return self.settings.directory / "installations"

    def standby_socket_directory(self, name: str) -> Path:
        """Private to the standby's server; beside the WAL server's, for its short path."""
        return self.settings.wal_server.socket_directory.parent / "standby" / name

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that outlives its caller; the service waits for it when it stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def to_the_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end, also when the caller is cancelled; raises what it raises."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._seen)
        await asyncio.shield(task)

    def _seen(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller's, if it is still there

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LogshipError):
            log.warning("work in the background failed", **error.as_dict())
        elif error is not None:
            log.error("a bug in the background", exc_info=error)

    async def finish_spawned(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
