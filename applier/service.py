"""The applier as a process: all instances, the WAL server, the link and the API, joined."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

import structlog

from applier.api.operations import Report
from applier.api.server import ApiServer
from applier.operations.host import Host
from applier.operations.instance import Instance
from applier.operations.promotion import promote, resume
from applier.operations.state import instance_status
from applier.receivers.link import LinkReceiver
from applier.settings import ApplierSettings
from applier.walserver.server import WalServer
from applier.walserver.status import StandbyStatus
from logship import __version__, durable, status
from logship.errors import Code, LogshipError, UsageError
from logship.link.keys import load_pair, load_public
from logship.postgres.installations import discover
from logship.postgres.run_as import RunAs

log = structlog.get_logger(__name__)


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
        self._host: Host | None = None

    async def open(self, names: list[str]) -> None:
        """Take up the instances `names` with what is on disk; standbys are adopted or started.

        Raises LogshipError; nothing is left open then.
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
                await instance.open()
        except BaseException:
            await self.close()
            raise

    def finish_promotions(self) -> None:
        """Go on with what a crash interrupted."""
        assert self._host is not None
        for instance in self.open_instances.values():
            if instance.record.fence is not None and instance.record.promotion is None:
                self._host.spawn(self._finish_promotion(instance))

    async def close(self) -> None:
        """Let go of everything; the standbys run on."""
        if self._host is not None:
            await self._host.finish_spawned()
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
        return await promote(self._named(name), report)

    async def request_seed(self, name: str, why: str) -> dict[str, Any]:
        self._named(name).request_seed(why)
        return {"name": name, "requested": True}

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

    async def _finish_promotion(self, instance: Instance) -> None:
        try:
            await resume(instance, lambda step, facts: log.info("promotion", step=step, **facts))
        except LogshipError as error:
            instance.alarms.raise_error(error)

    def _standby_reported(self, name: str, reported: StandbyStatus) -> None:
        instance = self.open_instances.get(name)
        if instance is not None:
            instance.following.status_changed(reported)


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
        keys = load_pair(settings.link.secret_key_file)
        service = Service(settings)
        await service.open(sorted(settings.instances))
        stack.push_async_callback(service.close)
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
        endpoint = receiver.start(settings.link.listen)
        log.info("applier is ready", listens=endpoint, api=str(settings.api.socket))
        await stop.wait()
        log.info("applier stops; the standbys run on")


def allowed_keys(settings: ApplierSettings) -> dict[str, frozenset[str]]:
    """Public key to the instances that it may ship.  Raises LogshipError(KEY_MISSING, …)."""
    allowed: dict[str, frozenset[str]] = {}
    for name, instance in settings.instances.items():
        source = instance.public_key or instance.public_key_file
        assert source is not None, "the settings were checked for one of the two"
        key = load_public(source)
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
    return asyncio.run(_promote_offline(settings, name, report))


async def _promote_offline(settings: ApplierSettings, name: str, report: Report) -> dict[str, Any]:
    service = Service(settings)
    await service.open([name])
    try:
        instance = service.open_instances[name]
        if instance.record.fence is not None and instance.record.promotion is None:
            return await resume(instance, report, offline=True)
        return await promote(instance, report, offline=True)
    finally:
        await service.close()
