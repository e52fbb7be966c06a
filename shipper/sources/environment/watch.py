"""Asks a primary what surrounds it, in the background, and keeps the answers.

Nothing here holds up the stream: only the first connection to a server waits, and not for
long, so that the first hello already tells.  What does not answer is told as unread.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import structlog

from logship.documents import UNREADABLE
from logship.errors import LogshipError
from logship.identity import Profile
from shipper.sources.environment import catalogs
from shipper.sources.environment.host import host_software
from shipper.sources.environment.memory import EnvironmentMemory
from shipper.sources.primary import PrimaryQueries

log = structlog.get_logger(__name__)

FIRST_READ_SECONDS = 5.0


class EnvironmentWatch:
    """Of the server that `queries` leads to, which stays the caller's."""

    def __init__(self, queries: PrimaryQueries) -> None:
        self._queries = queries
        self._server: tuple[int, int] | None = None
        self._memory = EnvironmentMemory()
        self._asking: asyncio.Task[None] | None = None

    async def open(
        self, profile: Profile, *, within_seconds: float | None = FIRST_READ_SECONDS
    ) -> Profile:
        """The profile with what is known, of a server that was just reached.

        Waits for the whole of it if nothing is known of this server, and else for the part that
        one question tells.  within_seconds: but no longer than that; None: however long it takes.
        Never raises LogshipError.
        """
        await self.stop()
        server = (profile.system_identifier, profile.server_version_num)
        if server != self._server:
            self._server, self._memory = server, EnvironmentMemory()
        self._memory.connected_anew()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self._ask_host()
                await self._ask_cluster(profile.major)
                if not self._memory.knows_databases:
                    await self._look_into_databases()
        return self._told(profile)

    def refreshed(self, profile: Profile) -> Profile:
        """The profile with what is known now.  Has what is due asked meanwhile."""
        now = asyncio.get_running_loop().time()
        idle = self._asking is None or self._asking.done()
        if idle and (self._memory.cluster_due(now) or self._memory.databases_due(now)):
            self._asking = asyncio.create_task(self._ask(profile.major))
        return self._told(profile)

    async def stop(self) -> None:
        """Ask nothing any more, until `open` or `refreshed`."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    def _told(self, profile: Profile) -> Profile:
        return msgspec.structs.replace(profile, environment=self._memory.environment())

    async def _ask(self, major: int) -> None:
        try:
            if self._memory.cluster_due(_now()):
                await self._ask_cluster(major)
            await self._look_into_databases()
        except Exception:
            # Nobody waits for this task; the next one may do better.
            log.exception("a bug ended the look at what surrounds the primary")

    async def _ask_host(self) -> None:
        """A server loads its libraries when it starts, so once for each connection is enough."""
        try:
            ((pid, user),) = await self._queries.ask(
                "select pg_catalog.pg_backend_pid(), session_user::text"
            )
        except LogshipError:
            return
        self._memory.take_host(await asyncio.to_thread(host_software, pid, user))

    async def _ask_cluster(self, major: int) -> None:
        try:
            ((answer,),) = await self._queries.ask(catalogs.cluster_sql(major))
            self._memory.take_cluster(catalogs.read_cluster(answer), _now())
        except (LogshipError, *UNREADABLE) as error:
            log.debug("what surrounds the primary can't be read", why=str(error))
            self._memory.cluster_unread(_now())

    async def _look_into_databases(self) -> None:
        """One after the other: connections are scarce on a busy primary."""
        for name in self._memory.databases_due(_now()):
            queries = self._queries.of_database(name)
            try:
                ((answer,),) = await queries.ask(catalogs.INSIDE_SQL)
                self._memory.take_inside(name, catalogs.read_inside(answer), _now())
            except (LogshipError, *UNREADABLE) as error:
                log.debug("a database can't be looked into", database=name, why=str(error))
                if isinstance(error, LogshipError) and error.retryable:
                    self._memory.inside_unread(name, _now())
                else:
                    self._memory.inside_refused(name, _now())
            finally:
                await queries.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
