"""The applier as a process: all instances, the WAL server, the link and the API, joined."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pwd
import signal
import time
from pathlib import Path
from typing import Any

import structlog

from applier.api.operations import Report
from applier.api.server import ApiServer
from applier.operations.buckets import Buckets
from applier.operations.host import Host
from applier.operations.instance import Instance
from applier.operations.promotion import promote, resume
from applier.operations.state import instance_status
from applier.receivers.link import LinkReceiver
from applier.settings import ApplierSettings
from applier.walserver.server import WalServer
from applier.walserver.status import StandbyStatus
from logship import __version__, durable, status
from logship.errors import Code, LogshipError, RefusedError, UsageError
from logship.link.keys import load_pair, load_public
from logship.postgres.installations import discover
from logship.postgres.run_as import RunAs

log = structlog.get_logger(__name__)

OPEN_AGAIN_SECONDS = 10.0
RETENTION_SECONDS = 3600.0
BUCKET_RETENTION_TURNS = 24
"""Of the hourly turns, one in so many looks into the bucket, which lists it."""

FIRST_FINISH_PAUSE_SECONDS = 1.0
MAX_FINISH_PAUSE_SECONDS = 30.0
"""Between tries to finish a promotion that was interrupted."""


class Service:
    """Every instance of one recovery server, without the roads that lead in.

    Also the `Operations` that the API serves.  `open` first, `close` last.
    """

    def __init__(self, settings: ApplierSettings) -> None:
        self.settings = settings
        self.open_instances: dict[str, Instance] = {}
        self._run_as = RunAs.of(settings.postgres.run_as or None)
        self.wal_server = WalServer(
            settings.wal_server.socket_directory,
            settings.wal_server.port,
            allowed_uids=frozenset({os.geteuid(), self._run_as.uid}),
            on_status=self._standby_reported,
        )
        self.buckets: Buckets | None = None
        """The road through the bucket; made once the instances are open."""
        self._host: Host | None = None
        self._finishing: set[str] = set()

    async def open(self, names: list[str], *, each_for_itself: bool = True) -> None:
        """Take up the instances `names` with what is on disk; standbys are adopted or started.

        An instance that can't be taken up is alarmed and tried again, so that it does not
        stop the others; without `each_for_itself` it is raised.  Raises LogshipError; nothing
        is left open then.
        """
        await asyncio.to_thread(durable.make_directory, self.settings.directory, 0o711)
        installations = await asyncio.to_thread(
            discover, self.settings.postgres.installations, run_as=self._run_as
        )
        self._host = Host(self.settings, self._run_as, installations, self.wal_server)
        await asyncio.to_thread(
            durable.make_directory, self._host.standby_socket_directory("x").parent, 0o711
        )
        await self.wal_server.start()
        try:
            for name in names:
                instance = Instance(name, self._host)
                self.open_instances[name] = instance
                await self._open(instance, again=each_for_itself)
        except BaseException:
            await self.close()
            raise

    async def _open(self, instance: Instance, *, again: bool) -> None:
        try:
            await instance.open()
        except LogshipError as error:
            if not again:
                raise
            instance.failure = error
            instance.alarms.raise_error(error)
            assert self._host is not None
            self._host.spawn(self._open_again(instance))

    async def _open_again(self, instance: Instance) -> None:
        while instance.failure is not None:
            await asyncio.sleep(OPEN_AGAIN_SECONDS)
            await instance.close()
            try:
                await instance.open()
            except LogshipError as error:
                instance.failure = error
                instance.alarms.raise_error(error)
            else:
                log.info("the instance is open after all", instance=instance.name)
                if _is_unfinished(instance):
                    self._finish_in_background(instance)

    def finish_promotions(self) -> None:
        """Go on with what a crash interrupted."""
        for instance in self.open_instances.values():
            if _is_unfinished(instance):
                self._finish_in_background(instance)

    def keep_retention(self) -> None:
        """From now on remove, now and then, what nothing needs any more."""
        assert self._host is not None
        self._host.spawn(self._keep_retention())

    async def _keep_retention(self) -> None:
        for turn in itertools.count():
            await asyncio.sleep(RETENTION_SECONDS)
            with_bucket = turn % BUCKET_RETENTION_TURNS == 0
            for instance in list(self.open_instances.values()):
                await instance.retention.run_quietly(with_bucket=with_bucket)

    async def close(self) -> None:
        """Let go of everything; the standbys run on."""
        if self._host is not None:
            await self._host.finish_spawned()
            self._host.sharing.turns.close()
        for instance in self.open_instances.values():
            await instance.close()
        self.open_instances.clear()
        await self.wal_server.stop()

    # --- Operations -----------------------------------------------------------------------

    def instances(self) -> list[status.InstanceStatus]:
        return [instance_status(self.open_instances[name]) for name in sorted(self.open_instances)]

    def instance(self, name: str) -> status.InstanceStatus:
        return instance_status(self._named(name))

    async def promote(self, name: str, report: Report) -> dict[str, Any]:
        instance = self._named(name)
        try:
            return await promote(instance, report)
        finally:
            if _is_unfinished(instance) and not instance.promotion_turn.locked():
                # It failed where PostgreSQL may already be opening: there is no way back.
                self._finish_in_background(instance)

    async def request_seed(self, name: str, why: str, source: str = "") -> dict[str, Any]:
        self._named(name)
        assert self.buckets is not None, "start it first"
        return await self.buckets.request_seed(name, why, source)

    async def retention(self, name: str, *, dry_run: bool) -> dict[str, Any]:
        return await self._named(name).retention.run(dry_run=dry_run)

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
        assert self._host is not None
        if instance.name not in self._finishing:
            self._finishing.add(instance.name)
            self._host.spawn(self._finish_promotion(instance))

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
        self._finishing.discard(instance.name)
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
    asyncio.run(serve(settings))


async def serve(settings: ApplierSettings) -> None:
    """Receive, keep and replay until SIGTERM or SIGINT.  Raises LogshipError."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.info("applier starts", version=__version__, instances=sorted(settings.instances))
    async with contextlib.AsyncExitStack() as stack:
        keys = load_pair(settings.link.secret_key_file) if settings.has_link else None
        service = Service(settings)
        await service.open(sorted(settings.instances))
        stack.push_async_callback(service.close)
        service.buckets = buckets = Buckets(settings, service.open_instances)
        stack.push_async_callback(buckets.stop)
        receiver = None
        if keys is not None:
            receiver = LinkReceiver(
                service.open_instances,
                allowed_keys(settings),
                keys=keys,
                window_bytes=settings.link.window_mb << 20,
                heartbeat_seconds=settings.link.heartbeat_seconds,
            )
            stack.push_async_callback(receiver.stop)
        api = ApiServer(service, settings.api.socket, group=settings.api.group)
        await api.start()
        stack.push_async_callback(api.stop)
        service.finish_promotions()
        service.keep_retention()
        endpoint = receiver.start(settings.link.listen) if receiver is not None else "no link"
        buckets.start()
        log.info("applier is ready", listens=endpoint, api=str(settings.api.socket))
        await stop.wait()
        log.info("applier stops; the standbys run on")


def allowed_keys(settings: ApplierSettings) -> dict[str, frozenset[str]]:
    """Public key to the instances that it may ship.  Raises LogshipError(KEY_MISSING, …)."""
    allowed: dict[str, frozenset[str]] = {}
    for name, instance in settings.instances.items():
        if not instance.has_link:
            continue
        key = load_public(instance.shipper_key)
        allowed[key] = allowed.get(key, frozenset()) | {name}
    return allowed


def promote_offline(settings: ApplierSettings, name: str, report: Report) -> dict[str, Any]:
    """Promote `name` while no applier runs, from this server's own disk alone.

    Raises RefusedError/LogshipError as `promote`, and STORE_LOCKED if an applier does run.
    """
    if name not in settings.instances:
        known = ", ".join(sorted(settings.instances))
        raise UsageError(
            Code.UNKNOWN_INSTANCE, f"there is no instance {name!r}", f"instances here: {known}"
        )
    _become_owner(settings.directory)
    try:
        return asyncio.run(_promote_offline(settings, name, report))
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


async def _promote_offline(settings: ApplierSettings, name: str, report: Report) -> dict[str, Any]:
    started_at = time.monotonic()
    service = Service(settings)
    await service.open([name], each_for_itself=False)
    try:
        instance = service.open_instances[name]
        return await promote(instance, report, offline=True, started_at=started_at)
    finally:
        await service.close()
