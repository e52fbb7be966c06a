"""What all instances of one recovery server share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from applier.fleet.places import InstancePlaces
from applier.operations.sharing import Sharing
from applier.operations.tablespaces import PathPermission
from applier.settings import ApplierSettings
from applier.standby.packages import state_of
from applier.standby.surroundings import Surroundings
from applier.walserver.server import WalServer
from logship.errors import LogshipError
from logship.postgres.installations import Installation, discover, programs
from logship.postgres.run_as import RunAs
from logship.threads import DaemonThreads

log = structlog.get_logger(__name__)

REMOVALS_AT_ONCE = 8
MEASURED_AT_ONCE = 8


class Host:
    """The recovery server as instances see it: settings, installations, the WAL server.

    `settings` are the effective ones, with every instance that there is; they are replaced as a
    whole when an instance is added, changed or removed.
    """

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
        self.path_permission = PathPermission(
            run_as, wanted=settings.standby.private_paths == "auto"
        )
        self.surroundings = Surroundings(run_as, self.probe_cache)
        self.keep_free_bytes = settings.store.keep_free_mb << 20
        self.sharing = Sharing(settings.budgets, lambda: self.settings.instances)
        self.removals = DaemonThreads(REMOVALS_AT_ONCE, "removal")
        """For trees that may be large: a stop does not wait, the next start removes the rest."""
        self.measuring = DaemonThreads(MEASURED_AT_ONCE, "disk-use")
        """For looks at whole trees: a stop does not wait for them either."""
        self._spawned: dict[asyncio.Task[Any], str] = {}
        self._to_the_end: dict[asyncio.Task[Any], str] = {}

    def places(self, name: str) -> InstancePlaces:
        """Where the files of an instance are."""
        return InstancePlaces(self.settings.directory, name)

    @property
    def probe_cache(self) -> Path:
        """Where it is remembered what each installation makes."""
        return self.settings.directory / "installations"

    async def discover(self) -> None:
        """Look which installations there are by now."""
        self.installations = await asyncio.to_thread(
            discover, self.settings.postgres.installations, run_as=self.run_as
        )

    def packages(self) -> dict[str, object]:
        """The state of all that standbys run on here: changes when a package does.  Blocks for
        a millisecond."""
        found = programs(self.settings.postgres.installations)
        state = state_of({*found, *self.surroundings.watched})
        state["programs"] = tuple(found)
        return state

    def take_unanswered_majors(self) -> set[int]:
        """The majors with an installation that did not answer and is to be asked again, told
        once for each time that it did not.  Blocks for a millisecond."""
        return {one.major for one in self.surroundings.take_unanswered(self.installations)}

    def standby_socket_directory(self, name: str) -> Path:
        """Private to the standby's server; beside the WAL server's, for its short path."""
        return self.settings.wal_server.socket_directory.parent / "standby" / name

    def spawn(self, work: Coroutine[Any, Any, None], owner: str = "") -> asyncio.Task[None]:
        """Run something that outlives its caller; the service waits for it when it stops.

        owner: the instance that it belongs to, which is not removed before it has ended.
        """
        task = asyncio.create_task(work)
        self._spawned[task] = owner
        task.add_done_callback(self._done)
        return task

    async def to_the_end(self, work: Coroutine[Any, Any, None], owner: str = "") -> None:
        """Run `work` to its end, also when the caller is cancelled; raises what it raises."""
        task = asyncio.create_task(work)
        self._to_the_end[task] = owner
        task.add_done_callback(self._seen)
        await asyncio.shield(task)

    def _seen(self, task: asyncio.Task[None]) -> None:
        self._to_the_end.pop(task, None)
        if not task.cancelled():
            task.exception()  # the caller's, if it is still there

    def _done(self, task: asyncio.Task[None]) -> None:
        self._spawned.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LogshipError):
            log.warning("work in the background failed", **error.as_dict())
        elif error is not None:
            log.error("a bug in the background", exc_info=error)

    async def finish_spawned(self) -> None:
        """End all that runs, as `finish_work_of` does."""
        await self._finish(lambda _: True)

    async def finish_work_of(self, owner: str) -> None:
        """End what runs for an instance, and what that leaves behind; what has to come to its
        end does."""
        await self._finish(lambda name: name == owner)

    async def _finish(self, is_meant: Callable[[str], bool]) -> None:
        while True:
            spawned = [task for task, name in self._spawned.items() if is_meant(name)]
            rest = [task for task, name in self._to_the_end.items() if is_meant(name)]
            if not spawned and not rest:
                return
            for task in spawned:
                task.cancel()
            await asyncio.wait([*spawned, *rest])
