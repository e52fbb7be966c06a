"""All instances, the WAL server and the roads, joined; what the API serves."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from applier.api.operations import Report
from applier.enrolment.address import own_address
from applier.enrolment.desk import EnrolmentDesk
from applier.enrolment.fleet import FleetInstances
from applier.operations.compat_report import compat_report
from applier.operations.fleet import Fleet
from applier.operations.host import Host
from applier.operations.instance import Instance
from applier.operations.promotion import promote
from applier.operations.record import load_record
from applier.operations.roads import Roads
from applier.operations.state import instance_status
from applier.operations.stopping import data_directories, stop_servers
from applier.operations.switching import switch_installation
from applier.service.finishing import Finishing
from applier.service.looking import Looking
from applier.settings import ApplierSettings
from applier.standby.packages import PackageWatch
from applier.walserver.server import WalServer
from applier.walserver.status import StandbyStatus
from logship import durable, status
from logship.errors import Code, LogshipError, UsageError
from logship.identity import Incarnation, Profile
from logship.link.keys import load_pair
from logship.postgres.run_as import RunAs

log = structlog.get_logger(__name__)

OPEN_AT_ONCE = 16
"""Instances that are taken up at the same time: one whose server is slow to start, or whose disk
is, must not keep all others waiting."""

OPEN_AGAIN_SECONDS = 10.0
RETENTION_SECONDS = 3600.0
BUCKET_RETENTION_TURNS = 24
"""Of the hourly turns, one in so many looks into the bucket, which lists it."""


class Service:
    """Every instance of one recovery server; `make_roads` makes the roads that lead in.

    Also the `Operations` that the API serves.  `open` first, `close` last.
    """

    def __init__(self, settings: ApplierSettings) -> None:
        """settings: the settings file's; what is registered besides is read by `open`."""
        self.settings = settings
        self.open_instances: dict[str, Instance] = {}
        self._fleet = Fleet(settings, self.open_instances)
        self._desk = EnrolmentDesk(
            settings.directory / "enrolment",
            FleetInstances(self._fleet, lambda: self.host, self.add_instance),
            applier_public_key=lambda: load_pair(settings.link.secret_key_file).public,
        )
        self._run_as = RunAs.of(settings.postgres.run_as or None)
        self.wal_server = WalServer(
            settings.wal_server.socket_directory,
            settings.wal_server.port,
            allowed_uids=frozenset({os.geteuid(), self._run_as.uid}),
            on_status=self._standby_reported,
        )
        self.roads: Roads | None = None
        """None until `make_roads`."""
        self._host: Host | None = None
        self._looking: Looking | None = None
        self._left: list[Path] = []
        """Data directories of the servers that `close` let go of."""
        self._finishing = Finishing()
        self._changes: set[asyncio.Task[dict[str, Any]]] = set()

    async def open(
        self, names: Sequence[str] | None = None, *, each_for_itself: bool = True
    ) -> None:
        """Take up the instances `names` with what is on disk; standbys are adopted or started.
        None: all, declared and registered, once interrupted removals are finished.

        An instance that can't be taken up is alarmed and tried again, so that it does not
        stop the others; without `each_for_itself` it is raised.  Raises LogshipError; nothing
        is left open then.
        """
        await asyncio.to_thread(durable.make_directory, self.settings.directory, 0o711)
        settings = await self._fleet.load()
        self._host = Host(settings, self._run_as, [], self.wal_server)
        # First, so that what is installed meanwhile counts as a change.
        packages = PackageWatch(await asyncio.to_thread(self._host.packages))
        self._looking = Looking(self._host, self.open_instances, packages)
        await self._host.discover()
        await asyncio.to_thread(
            durable.make_directory, self._host.standby_socket_directory("x").parent, 0o711
        )
        await self.wal_server.start()
        try:
            if names is None:
                await self._fleet.finish_removals(self._host)
                await self._desk.load()
                names = self._fleet.names
            else:
                await self._count_promoted(self._host, settings.instances.keys() - set(names))
            for name in names:
                self.open_instances[name] = Instance(name, self._host)
            await self._open_all(again=each_for_itself)
        except BaseException:
            await self.close()
            raise

    @staticmethod
    async def _count_promoted(host: Host, names: Iterable[str]) -> None:
        """Those that are left alone have their part of the memory, if they are promoted."""
        for name in names:
            with contextlib.suppress(LogshipError):  # its own trouble
                record = await asyncio.to_thread(load_record, host.places(name).home, name)
                if record.promotion is not None:
                    host.sharing.promoted(name, lambda: None)

    async def _open_all(self, *, again: bool) -> None:
        turns = asyncio.Semaphore(OPEN_AT_ONCE)

        async def open_in_turn(instance: Instance) -> None:
            async with turns:
                await self._open(instance, again=again)

        opening = [asyncio.create_task(open_in_turn(i)) for i in self.open_instances.values()]
        try:
            await asyncio.gather(*opening)
        finally:
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)

    def make_roads(self) -> Roads:
        """The roads on which WAL and seeds come; `start` them when all else is ready.

        Raises LogshipError: the bucket's identities can't be used.
        """
        self.roads = self._fleet.roads = Roads(self.host, self.open_instances, self._desk)
        return self.roads

    async def close_roads(self) -> None:
        roads, self.roads = self.roads, None
        self._fleet.roads = None
        if roads is not None:
            await roads.stop()

    @property
    def host(self) -> Host:
        """What the instances share; there once it is open."""
        assert self._host is not None, "open it first"
        return self._host

    async def _take_up(self, instance: Instance) -> None:
        await self._open(instance, again=True)
        self._finishing.go_on_with(instance)

    async def _open(self, instance: Instance, *, again: bool) -> None:
        try:
            await instance.open()
        except LogshipError as error:
            if not again:
                raise
            instance.failure = error
            instance.alarms.raise_error(error)
            instance.spawn(self._open_again(instance))

    async def _open_again(self, instance: Instance) -> None:
        while True:
            await asyncio.sleep(OPEN_AGAIN_SECONDS)
            # An older cluster of it may just be taken up, to be promoted.
            async with instance.incarnations.turn, instance.keeping.turn:
                if instance.failure is None:
                    return
                await instance.close()
                try:
                    await instance.open()
                except LogshipError as error:
                    instance.failure = error
                    instance.alarms.raise_error(error)
                    continue
            log.info("the instance is open after all", instance=instance.name)
            self._finishing.go_on_with(instance)
            return

    def finish_promotions(self) -> None:
        """Go on with what a crash interrupted."""
        for instance in self.open_instances.values():
            self._finishing.go_on_with(instance)

    def keep_retention(self) -> None:
        """From now on remove, now and then, what nothing needs any more."""
        self.host.spawn(self._keep_retention())

    async def _keep_retention(self) -> None:
        for turn in itertools.count():
            await asyncio.sleep(RETENTION_SECONDS)
            with_bucket = turn % BUCKET_RETENTION_TURNS == 0
            for instance in list(self.open_instances.values()):
                if self.open_instances.get(instance.name) is not instance:
                    continue  # it was removed meanwhile
                await instance.retention.run_quietly(with_bucket=with_bucket)
                await instance.former.remove_expired()

    @property
    def looking(self) -> Looking:
        """There once it is open."""
        assert self._looking is not None, "open it first"
        return self._looking

    def keep_looking(self) -> None:
        """From now on look, now and then, for changed packages and into running standbys."""
        self.looking.keep()

    async def close(self) -> None:
        """Let go of everything; the standbys run on.  A change of the fleet that runs is waited
        for."""
        if self._changes:
            await asyncio.wait(self._changes)
        if self._host is not None:
            await self._host.finish_spawned()
            self._host.sharing.turns.close()
        self._left += data_directories(self.open_instances.values())
        for instance in self.open_instances.values():
            await instance.close()
        self.open_instances.clear()
        await self.wal_server.stop()

    async def stop_servers(self) -> None:
        """After `close`: stop the standbys and promoted servers that it left running."""
        await stop_servers(self._left)

    # --- Operations -----------------------------------------------------------------------

    async def instances(self) -> list[status.InstanceStatus]:
        documents = []
        for instance in sorted(self.open_instances.values(), key=lambda each: each.name):
            documents.append(instance_status(instance))
            # Hundreds in one go would hold up everybody's commits.
            await asyncio.sleep(0)
        return documents

    def instance(self, name: str) -> status.InstanceStatus:
        return instance_status(self._named(name))

    async def promote(
        self, name: str, report: Report, incarnation: Incarnation | None = None
    ) -> dict[str, Any]:
        instance = self._named(name)
        try:
            return await promote(instance, report, incarnation=incarnation)
        finally:
            if not instance.promotion_turn.locked():
                # It failed where PostgreSQL may already be opening: there is no way back.
                self._finishing.go_on_with(instance)

    async def request_seed(self, name: str, why: str, source: str = "") -> dict[str, Any]:
        self._named(name)
        assert self.roads is not None, "make the roads first"
        return await self.roads.buckets.request_seed(name, why, source)

    async def retention(self, name: str, *, dry_run: bool) -> dict[str, Any]:
        return await self._named(name).retention.run(dry_run=dry_run)

    async def switch_installation(
        self, name: str, version: str, within_seconds: float
    ) -> dict[str, Any]:
        return await switch_installation(self._named(name), version, within_seconds)

    async def accept(self, name: str, incarnation: Incarnation) -> dict[str, Any]:
        return await self._named(name).incarnations.accept(incarnation)

    async def forget(self, name: str, incarnation: Incarnation | None) -> dict[str, Any]:
        return await self._named(name).former.forget(incarnation)

    async def fleet(self) -> list[dict[str, Any]]:
        return await self._fleet.describe()

    async def add_instance(self, name: str, said: Mapping[str, Any]) -> dict[str, Any]:
        return await self._whole(self._fleet.add(self.host, name, said, self._take_up))

    async def change_instance(
        self, name: str, changes: Mapping[str, Any], unset: Sequence[str]
    ) -> dict[str, Any]:
        return await self._whole(self._fleet.change(self.host, name, changes, unset))

    async def remove_instance(
        self, name: str, *, keep_data: bool, promoted: bool
    ) -> dict[str, Any]:
        removed = await self._whole(
            self._fleet.remove(self.host, name, keep_data=keep_data, promoted=promoted)
        )
        await self._desk.withdraw(name)
        return removed

    async def enroll(self, name: str, address: str, hours: float) -> dict[str, Any]:
        if self.roads is None:
            raise LogshipError(
                Code.APPLIER_UNREACHABLE,
                "the applier is just starting, or stopping",
                "ask again in a moment",
                retryable=True,
            )
        self.roads.ensure_link()
        where = address or await asyncio.to_thread(own_address, self.settings.link.listen)
        token, expires_at = await self._desk.issue(name, where, hours)
        return {
            "instance": name,
            "token": token.text(),
            "address": where,
            "expires_at": expires_at,
        }

    async def compat(
        self, name: str, against: str, primary: Profile | None = None
    ) -> dict[str, Any]:
        return await compat_report(self._named(name), against, primary)

    async def _whole(self, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """Who asked may go away: what was begun is done to its end."""
        task = asyncio.create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changed)
        return await asyncio.shield(task)

    def _changed(self, task: asyncio.Task[dict[str, Any]]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # the caller's, if it is still there

    def _named(self, name: str) -> Instance:
        try:
            return self.open_instances[name]
        except KeyError:
            known = ", ".join(sorted(self.open_instances)) or "none"
            raise UsageError(
                Code.UNKNOWN_INSTANCE,
                f"there is no instance {name!r}",
                f"instances here: {known}",
            ) from None

    def _standby_reported(self, name: str, reported: StandbyStatus) -> None:
        instance = self.open_instances.get(name)
        if instance is not None:
            instance.following.serving.status_changed(reported)
