"""What is known of a primary's surroundings, and what is to be asked again.  No I/O.

Two parts: what any connection tells of the whole cluster, which is asked often, and what is
inside each database, which takes a connection to each and is asked rarely.
"""

from __future__ import annotations

import math

import msgspec

from logship.environment import THE_CATALOGS, THE_PRELOADED, DatabaseFacts, Environment
from shipper.sources.environment.catalogs import ClusterFacts, Inside, ListedDatabase
from shipper.sources.environment.host import ELSEWHERE, HostSoftware

CLUSTER_SECONDS = 30.0
DATABASES_SECONDS = 300.0
REFUSED_SECONDS = 3600.0
"""Between two attempts to enter a database that refuses: each is a line in the server's log."""
MAX_ENVIRONMENT_BYTES = 128 << 10
"""As MessagePack: a profile travels in the head of a frame, `logship.frames.MAX_HEAD_BYTES`."""

NOTHING_READ = Environment(is_complete=False, unread=(THE_CATALOGS,))


class EnvironmentMemory:
    """Of one server.  `now`: monotonic seconds."""

    def __init__(self) -> None:
        self._cluster: ClusterFacts | None = None
        self._cluster_at = -math.inf
        self._inside: dict[str, Inside] = {}
        self._looked_at: dict[str, float] = {}
        """When each database was last looked into, whatever came of it."""
        self._refused_at: dict[str, float] = {}
        self._host = ELSEWHERE

    def connected_anew(self) -> None:
        """The server may have been restarted with other settings: ask the cluster at once."""
        self._cluster_at = -math.inf

    def cluster_due(self, now: float) -> bool:
        return now - self._cluster_at >= CLUSTER_SECONDS

    def databases_due(self, now: float) -> list[str]:
        """The databases to look into, in their order."""
        return [
            database.name
            for database in self._entered()
            if now - self._looked_at.get(database.name, -math.inf) >= DATABASES_SECONDS
            and now - self._refused_at.get(database.name, -math.inf) >= REFUSED_SECONDS
        ]

    @property
    def knows_databases(self) -> bool:
        """Whether they were looked into before, whatever came of it."""
        return bool(self._looked_at)

    def take_host(self, host: HostSoftware) -> None:
        self._host = host

    def take_cluster(self, facts: ClusterFacts, now: float) -> None:
        """After a change of it every database is due: who changed one thing may have changed
        another."""
        if self._cluster is not None and facts != self._cluster:
            self._looked_at = dict.fromkeys(self._looked_at, -math.inf)
        self._cluster, self._cluster_at = facts, now
        names = {database.name for database in facts.databases}
        for memory in (self._inside, self._looked_at, self._refused_at):
            for name in memory.keys() - names:
                del memory[name]

    def cluster_unread(self, now: float) -> None:
        """It did not answer, or refused; what was known stays."""
        self._cluster_at = now

    def take_inside(self, name: str, inside: Inside, now: float) -> None:
        self._inside[name], self._looked_at[name] = inside, now
        self._refused_at.pop(name, None)

    def inside_refused(self, name: str, now: float) -> None:
        """It lets nobody in, or not to what is asked for."""
        self._inside.pop(name, None)
        self._looked_at[name] = self._refused_at[name] = now

    def inside_unread(self, name: str, now: float) -> None:
        """It did not answer; what was known stays."""
        self._looked_at[name] = now

    def environment(self) -> Environment:
        """All that is known, as it is told."""
        cluster = self._cluster
        if cluster is None:
            return NOTHING_READ
        unread = [
            f"database {database.name}"
            for database in self._entered()
            if database.name not in self._inside
        ]
        if cluster.database_count > len(cluster.databases):
            unread.append(f"{cluster.database_count - len(cluster.databases)} more databases")
        if cluster.preload_libraries is None:
            unread.append(THE_PRELOADED)
        whole = Environment(
            operating_system=self._host.operating_system,
            libc=cluster.libc or self._host.libc,
            icu=self._host.icu,
            preload_libraries=cluster.preloads,
            resource_managers=tuple(sorted(cluster.resource_managers)),
            databases=tuple(
                sorted(found.facts(self._inside.get(found.name)) for found in cluster.databases)
            ),
            tablespaces=tuple(sorted(cluster.tablespaces)),
            is_complete=not unread,
            unread=tuple(sorted(unread)),
        )
        return bounded(whole, MAX_ENVIRONMENT_BYTES)

    def _entered(self) -> list[ListedDatabase]:
        """All but templates, in which nobody's data are."""
        databases = self._cluster.databases if self._cluster is not None else ()
        return [database for database in databases if not database.is_template]


def bounded(environment: Environment, max_bytes: int) -> Environment:
    """The environment with as many of its databases as fit into about `max_bytes`."""
    if _size_bytes(environment) <= max_bytes:
        return environment
    left_bytes = max_bytes - _size_bytes(msgspec.structs.replace(environment, databases=()))
    kept: list[DatabaseFacts] = []
    for database in environment.databases:
        left_bytes -= _size_bytes(database)
        if left_bytes < 0:
            break
        kept.append(database)
    told = f"{len(environment.databases) - len(kept)} more databases, too much to tell"
    return msgspec.structs.replace(
        environment,
        databases=tuple(kept),
        is_complete=False,
        unread=(*environment.unread, told),
    )


def _size_bytes(facts: Environment | DatabaseFacts) -> int:
    return len(msgspec.msgpack.encode(facts))
