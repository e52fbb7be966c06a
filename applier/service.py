"""The applier as a process: all instances, the WAL server, the link and the API, joined."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import pwd
import resource
import signal
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from applier.api.operations import Report
from applier.api.server import ApiServer
from applier.enrolment.address import own_address
from applier.enrolment.desk import EnrolmentDesk
from applier.enrolment.fleet import FleetInstances
from applier.fleet.registry import Registry
from applier.fleet.rules import effective
from applier.operations.compat_report import compat_report
from applier.operations.fleet import Fleet
from applier.operations.host import Host
from applier.operations.instance import Instance
from applier.operations.promotion import promote, resume
from applier.operations.record import load_record
from applier.operations.roads import Roads
from applier.operations.state import instance_status
from applier.operations.stopping import data_directories, stop_servers
from applier.operations.switching import switch_installation
from applier.settings import ApplierSettings
from applier.standby.packages import PackageWatch
from applier.walserver.server import WalServer
from applier.walserver.status import StandbyStatus
from logship import __version__, durable, status
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.identity import Incarnation, Profile
from logship.link.keys import load_pair
from logship.postgres.run_as import RunAs

log = structlog.get_logger(__name__)

OPEN_AT_ONCE = 16
"""Instances that are taken up, or checked again, at the same time: one whose server is slow to
start, or whose disk is, must not keep all others waiting."""

OPEN_AGAIN_SECONDS = 10.0
RETENTION_SECONDS = 3600.0
CHECK_AGAIN_SECONDS = 60.0
"""How long an instance that is checked again, and may be started by that, keeps its turn: it goes
on by itself then."""
LOOK_PAUSE_SECONDS = 2.0
"""Between two rounds of asking which running standby is to be looked into."""
BUCKET_RETENTION_TURNS = 24
"""Of the hourly turns, one in so many looks into the bucket, which lists it."""

MANY_FILES = 65536

FIRST_FINISH_PAUSE_SECONDS = 1.0
MAX_FINISH_PAUSE_SECONDS = 30.0
"""Between tries to finish a promotion that was interrupted."""


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
        self._packages = PackageWatch({})
        self._left: list[Path] = []
        """Data directories of the servers that `close` let go of."""
        self._finishing: set[str] = set()
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
        self._packages = PackageWatch(await asyncio.to_thread(self._host.packages))
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
        if _is_unfinished(instance):
            self._finish_in_background(instance)

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
            async with instance.incarnations.turn, instance.store_turn:
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
            if _is_unfinished(instance):
                self._finish_in_background(instance)
            return

    def finish_promotions(self) -> None:
        """Go on with what a crash interrupted."""
        for instance in self.open_instances.values():
            if _is_unfinished(instance):
                self._finish_in_background(instance)

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

    def keep_looking(self) -> None:
        """From now on look, now and then, for changed packages and into running standbys."""
        assert self._host is not None
        self._host.spawn(self._keep_looking_at_packages(self._host))
        self._host.spawn(self._keep_looking_into_standbys())

    async def _keep_looking_at_packages(self, host: Host) -> None:
        while True:
            await asyncio.sleep(self.settings.postgres.look_seconds)
            if self._packages.look(await asyncio.to_thread(host.packages)):
                await self._packages_changed(host)
            elif majors := await asyncio.to_thread(host.take_unanswered_majors):
                await self._ask_again(majors)

    async def _packages_changed(self, host: Host) -> None:
        await host.discover()
        found = [f"{one.version} in {one.bin_dir}" for one in host.installations]
        log.info("installed software changed: the versions are checked again", found=found)
        await self._check_again(list(self.open_instances.values()))

    async def _ask_again(self, majors: set[int]) -> None:
        """Check the instances again that would run on an installation that did not answer."""
        concerned = [
            instance
            for instance in self.open_instances.values()
            if (profile := instance.record.profile) is not None and profile.major in majors
        ]
        if not concerned:
            return
        names = [instance.name for instance in concerned]
        log.info("an installation did not answer: it is asked again", instances=names)
        await self._check_again(concerned)

    async def _check_again(self, instances: Sequence[Instance]) -> None:
        turns = asyncio.Semaphore(OPEN_AT_ONCE)

        async def check_in_turn(instance: Instance) -> None:
            async with turns:
                if self.open_instances.get(instance.name) is not instance:
                    return  # it was removed meanwhile
                # The instance's own work: it ends when that is removed.
                checking = instance.spawn(instance.following.check_again(start=True))
                await asyncio.wait({checking}, timeout=CHECK_AGAIN_SECONDS)

        await asyncio.gather(*map(check_in_turn, instances))

    async def _keep_looking_into_standbys(self) -> None:
        while True:
            await asyncio.sleep(LOOK_PAUSE_SECONDS)
            for instance in list(self.open_instances.values()):
                if instance.following.is_look_due():
                    await asyncio.wait({instance.spawn(instance.following.look())})

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
            if _is_unfinished(instance) and not instance.promotion_turn.locked():
                # It failed where PostgreSQL may already be opening: there is no way back.
                self._finish_in_background(instance)

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

    def _finish_in_background(self, instance: Instance) -> None:
        if instance.name not in self._finishing:
            self._finishing.add(instance.name)
            finishing = instance.spawn(self._finish_promotion(instance))
            finishing.add_done_callback(lambda _: self._finishing.discard(instance.name))

    async def _finish_promotion(self, instance: Instance) -> None:
        """Until it is done: nothing else may become of a fenced instance."""
        pause_seconds = FIRST_FINISH_PAUSE_SECONDS
        alarm: Code | None = None
        while _is_unfinished(instance):
            try:
                await resume(
                    instance, lambda step, facts: log.info("promotion", step=step, **facts)
                )
            except (LogshipError, OSError) as error:
                # An operator's own try may be under way: that is no alarm.
                if not instance.promotion_turn.locked():
                    failure = _as_logship_error(instance, error)
                    alarm = failure.code
                    instance.alarms.raise_error(failure)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, MAX_FINISH_PAUSE_SECONDS)
        if alarm is not None:
            instance.alarms.clear(alarm)

    def _standby_reported(self, name: str, reported: StandbyStatus) -> None:
        instance = self.open_instances.get(name)
        if instance is not None:
            instance.following.status_changed(reported)


def _is_unfinished(instance: Instance) -> bool:
    """Whether a promotion of it was begun that neither came to its end nor was taken back."""
    return instance.record.fence is not None and instance.record.promotion is None


def _as_logship_error(instance: Instance, error: LogshipError | OSError) -> LogshipError:
    if isinstance(error, LogshipError):
        return error
    return LogshipError(
        Code.PROMOTE_FAILED,
        f"the promotion of {instance.name} can't be finished: {error}",
        "mend the disk; it is tried again by itself",
        retryable=True,
    )


def run(settings: ApplierSettings) -> None:
    """The process: `serve` in an event loop of its own.  Raises LogshipError."""
    allow_many_files()
    asyncio.run(serve(settings))


def allow_many_files() -> None:
    """Raise our limit of open files, as far as we may: an instance takes five or so, and what
    shells set (1024) is meant for programs that can't count further."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(MANY_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


async def serve(settings: ApplierSettings) -> None:
    """Receive, keep and replay until SIGTERM or SIGINT.  Raises LogshipError.

    The servers run on, unless `standby.stop_with_applier` says otherwise.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.info("applier starts", version=__version__)
    async with contextlib.AsyncExitStack() as stack:
        if settings.has_link:
            load_pair(settings.link.secret_key_file)  # what is wrong with it is said at once
        service = Service(settings)
        await service.open()
        if settings.standby.stop_with_applier:
            stack.push_async_callback(service.stop_servers)
        stack.push_async_callback(service.close)
        stack.push_async_callback(service.close_roads)
        roads = service.make_roads()
        api = ApiServer(service, settings.api.socket, group=settings.api.group)
        await api.start()
        stack.push_async_callback(api.stop)
        service.finish_promotions()
        service.keep_retention()
        service.keep_looking()
        roads.start()
        # What is here by now stays.  A full collection would look at all of it, for hundreds of
        # instances a tenth of a second, in which nobody's commit gets on.
        gc.collect()
        gc.freeze()
        log.info(
            "applier is ready",
            instances=sorted(service.open_instances),
            api=str(settings.api.socket),
        )
        await stop.wait()
        if settings.standby.stop_with_applier:
            log.info("applier stops, and the standbys with it")
        else:
            log.info("applier stops; the standbys run on")


def promote_offline(
    settings: ApplierSettings, name: str, report: Report, incarnation: Incarnation | None = None
) -> dict[str, Any]:
    """Promote `name` while no applier runs, from this server's own disk alone.

    incarnation: which of its clusters; None: the one that it is.

    Raises RefusedError/LogshipError as `promote`, and STORE_LOCKED if an applier does run.
    """
    registered = Registry(settings.directory).load()
    if name in registered.unreadable:
        raise registered.unreadable[name]
    instances = effective(settings, registered).instances
    if name not in instances:
        known = ", ".join(sorted(instances))
        raise UsageError(
            Code.UNKNOWN_INSTANCE, f"there is no instance {name!r}", f"instances here: {known}"
        )
    _become_owner(settings.directory)
    try:
        return asyncio.run(_promote_offline(settings, name, report, incarnation))
    except LogshipError as error:
        if error.code not in (Code.SOCKET_IN_USE, Code.STORE_LOCKED):
            raise
        raise RefusedError(
            Code.STORE_LOCKED,
            f"an applier is running on {settings.directory}",
            f"let it do it: shipper promote {name}, without --offline",
        ) from error


def _become_owner(directory: Path) -> None:
    """As root, go on as the user whose directory it is: what root would leave behind there, the
    applier could not read any more."""
    try:
        owner = directory.stat().st_uid
    except OSError:
        return  # `open` says it better
    if os.geteuid() != 0 or owner == 0:
        return
    account = pwd.getpwuid(owner)
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(owner)
    os.environ["HOME"] = account.pw_dir


async def _promote_offline(
    settings: ApplierSettings, name: str, report: Report, incarnation: Incarnation | None
) -> dict[str, Any]:
    started_at = time.monotonic()
    service = Service(settings)
    # Whatever is wrong with the cluster that it is now, an older one may be sound.
    await service.open([name], each_for_itself=incarnation is not None)
    try:
        instance = service.open_instances[name]
        return await promote(
            instance, report, offline=True, started_at=started_at, incarnation=incarnation
        )
    finally:
        await service.close()
