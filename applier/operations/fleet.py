"""Instances added, changed and removed while the applier runs.

What is said is durable before anything is done about it, so that the next start goes on from
there whatever happens.  One change at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from applier.fleet import rules
from applier.fleet.places import IncarnationPlaces, Volumes, check_volumes
from applier.fleet.ports import allot_port, is_port_free, parse_ports
from applier.fleet.registry import (
    Entry,
    Registered,
    Registration,
    Registry,
    Removal,
    settings_of,
)
from applier.fleet.removal import directories_of, drills_of, remove_instance
from applier.fleet.report import describe
from applier.operations.host import Host
from applier.operations.instance import Instance
from applier.operations.parameters import check_parameters
from applier.operations.record import known_places, load_record
from applier.operations.roads import Roads
from applier.retention.leases import running_restores
from applier.settings import ApplierSettings, InstanceSettings
from logship.errors import Code, LogshipError, RefusedError
from logship.identity import Profile
from logship.link.keys import load_pair, load_public
from logship.postgres.installations import Installation
from logship.settings_network import parse_tcp_endpoint

log = structlog.get_logger(__name__)


class Fleet:
    """declared: the settings file's.  instances: those that are open, by name; kept here."""

    def __init__(self, declared: ApplierSettings, instances: dict[str, Instance]) -> None:
        self.registry = Registry(declared.directory)
        self.registered = Registered({}, {})
        self.roads: Roads | None = None
        """None while no road is open, as for a promotion offline."""
        self._declared = declared
        self._instances = instances
        self._turn = asyncio.Lock()

    async def load(self) -> ApplierSettings:
        """Read what is registered; returns the effective settings."""
        self.registered = await asyncio.to_thread(self.registry.load)
        for error in self.registered.unreadable.values():
            log.error("a registered instance is left out", **error.as_dict())
        for name in self.registered.entries.keys() & self._declared.instances.keys():
            log.warning(
                "the settings file counts, not the registration",
                instance=name,
                registration=str(self.registry.path(name)),
            )
        return self.effective

    @property
    def effective(self) -> ApplierSettings:
        return rules.effective(self._declared, self.registered)

    async def finish_removals(self, host: Host) -> None:
        """Go on with what a crash interrupted, before any instance is opened."""
        for entry in list(self.registered.entries.values()):
            if entry.registration.removing is not None:
                with contextlib.suppress(LogshipError):  # it is logged, and said by `list`
                    await self._remove_files(host, entry.registration)

    @property
    def names(self) -> list[str]:
        """What is to be opened: also of a declared name nothing that is half removed."""
        leaving = {
            name
            for name, entry in self.registered.entries.items()
            if entry.registration.removing is not None
        }
        return sorted(self.effective.instances.keys() - leaving)

    def check_new_name(self, name: str) -> None:
        """Raises UsageError, or RefusedError(INSTANCE_EXISTS), as `add` does."""
        rules.check_new_name(name, self._declared, self.registered)

    def why_refused(self, name: str, profile: Profile) -> LogshipError | None:
        """What the shipper of an instance would be refused with now, as where data were kept."""
        instance = self._instances.get(name)
        return instance.incarnations.why_refused(profile) if instance is not None else None

    async def describe(self) -> list[dict[str, Any]]:
        """See `applier.fleet.report.describe`."""
        return await asyncio.to_thread(describe_fleet, self._declared, self.registered.copy())

    # --- add --------------------------------------------------------------------------------

    async def add(
        self,
        host: Host,
        name: str,
        said: Mapping[str, Any],
        take_up: Callable[[Instance], Awaitable[None]],
    ) -> dict[str, Any]:
        """See `Service.add_instance`."""
        async with self._turn:
            rules.check_new_name(name, self._declared, self.registered)
            settings = rules.with_changes({}, said, ())
            if "port" not in settings:
                settings["port"] = await self._allot_port(host, name)
            own = settings_of(name, settings)
            self._check(host.settings, name, own)
            if own.run_standby:
                await check_parameters(host.installations, host.run_as, own.settings)
            if "port" in said and not host.places(name).home.exists():
                await self._check_port_is_free(own.port)
            if own.has_link and self.roads is not None:
                self.roads.ensure_link()
            await self._register(host, Registration(name=name, settings=settings), own)
            instance = self._instances[name] = Instance(name, host)
            await take_up(instance)
            if self.roads is not None:
                self.roads.attach(name)
            log.info("an instance was added", instance=name, port=own.port)
        return await self._described(name)

    async def _allot_port(self, host: Host, name: str) -> int:
        settings = host.settings
        # One that was removed and promoted may still serve clients there.
        record = await asyncio.to_thread(load_record, host.places(name).home, name)
        if record.promotion is not None:
            return record.promotion.port
        link_port = parse_tcp_endpoint(settings.link.listen).port
        return await asyncio.to_thread(
            allot_port,
            parse_ports(settings.fleet.ports),
            rules.taken_ports(settings, link_port),
            is_port_free,
        )

    async def _check_port_is_free(self, port: int) -> None:
        if not await asyncio.to_thread(is_port_free, port):
            raise RefusedError(
                Code.PORT_TAKEN,
                f"something listens on port {port} already",
                "name another port, or none to have one allotted",
            )

    def _check(self, settings: ApplierSettings, name: str, own: InstanceSettings) -> None:
        rules.check_together(settings, name, own)
        if own.has_link and self.roads is not None:
            ours = load_pair(settings.link.secret_key_file).public
            rules.check_key_is_its_own(
                name, load_public(own.shipper_key), self.roads.key_owners, ours
            )

    async def _register(
        self, host: Host, registration: Registration, own: InstanceSettings
    ) -> None:
        await asyncio.to_thread(self.registry.save, registration)
        self.registered.entries[registration.name] = Entry(registration, own)
        host.settings = self.effective

    async def _described(self, name: str) -> dict[str, Any]:
        # Called right after the turn: whoever has the next one can't have removed it yet.
        return next(each for each in await self.describe() if each["name"] == name)

    # --- change -----------------------------------------------------------------------------

    async def change(
        self, host: Host, name: str, changes: Mapping[str, Any], unset: Sequence[str]
    ) -> dict[str, Any]:
        """See `Service.change_instance`."""
        async with self._turn:
            entry = rules.registered_entry(name, self._declared, self.registered)
            if entry.registration.removing is not None:
                rules.check_new_name(name, self._declared, self.registered)  # raises
            instance = self._instances[name]
            settings = rules.with_changes(entry.registration.settings, changes, unset)
            own = settings_of(name, settings)
            self._check(host.settings, name, own)
            if own.run_standby:
                before = entry.settings.settings
                new = {key: each for key, each in own.settings.items() if each != before.get(key)}
                await check_parameters(_may_run_on(instance), host.run_as, new)
            if own.port != entry.settings.port:
                found = await self._on_disk(host, instance)
                rules.check_port_change(name, found, entry.settings.port, own.port)
                await self._check_port_is_free(own.port)
            # All of the above takes its time, and a promotion does not wait for it.
            _refuse_while_promoting(instance)
            if own.has_link and self.roads is not None:
                self.roads.ensure_link()
            changed = msgspec.structs.replace(entry.registration, settings=settings)
            await self._register(host, changed, own)
            if self.roads is not None:
                await self.roads.attach_again(name)
            await instance.following.settings_changed()
            log.info("an instance was changed", instance=name, set=sorted(changes), unset=unset)
        return await self._described(name)

    # --- remove -----------------------------------------------------------------------------

    async def remove(
        self, host: Host, name: str, *, keep_data: bool, promoted: bool
    ) -> dict[str, Any]:
        """See `Service.remove_instance`."""
        async with self._turn:
            entry = rules.registered_entry(name, self._declared, self.registered)
            registration = entry.registration
            instance = self._instances.get(name)
            if registration.removing is None and instance is not None:
                found = await self._on_disk(host, instance)
                _refuse_while_promoting(instance)
                removal = rules.plan_removal(name, found, keep_data=keep_data, promoted=promoted)
                registration = msgspec.structs.replace(registration, removing=removal)
                with _leaving(instance):
                    await asyncio.to_thread(self.registry.save, registration)
                self.registered.entries[name] = Entry(registration, entry.settings)
            if instance is not None:
                await self._close(host, instance)
            await self._remove_files(host, registration)
            log.info("an instance was removed", instance=name, kept_data=keep_data)
        return {"name": name, "removed": True, **msgspec.to_builtins(registration.removing)}

    async def _close(self, host: Host, instance: Instance) -> None:
        """Nothing comes to it, and nothing of it runs in this process, when this returns."""
        if self.roads is not None:
            await self.roads.detach(instance.name)
        await host.finish_work_of(instance.name)
        await instance.retention.wait_for_run()
        await instance.close()
        del self._instances[instance.name]
        host.sharing.left(instance.name)
        host.settings = self.effective

    async def _remove_files(self, host: Host, registration: Registration) -> None:
        """The rest of a removal, from wherever it stopped.  Raises LogshipError."""
        name, removal = registration.name, registration.removing
        assert removal is not None
        try:
            await asyncio.to_thread(self._remove_files_blocking, host, name, removal)
            await asyncio.to_thread(self.registry.remove, name)
        except LogshipError as error:
            log.error("an instance is not removed yet", instance=name, **error.as_dict())
            raise
        del self.registered.entries[name]
        host.settings = self.effective

    def _remove_files_blocking(self, host: Host, name: str, removal: Removal) -> None:
        places = host.places(name)
        volumes: list[Volumes] = []
        with contextlib.suppress(LogshipError):
            record = load_record(places.home, name)
            volumes = [record.volumes, *(each.volumes for each in record.previous)]
        if not removal.keep_data:
            check_volumes(volumes)
        extra = [host.standby_socket_directory(name)]
        if not removal.keep_data:
            extra += drills_of(self._declared, places, volumes)
            if not _is_bucket(self._declared):
                extra.append(self._declared.seeds_directory / name)
        remove_instance(directories_of(self._declared, places, volumes), removal, extra)
        cgroups = host.sharing.cgroups
        (cgroups.lift if removal.keep_server else cgroups.remove)(name)

    async def _on_disk(self, host: Host, instance: Instance) -> rules.OnDisk:
        restores = len(await asyncio.to_thread(running_restores, instance.directory))
        record, is_readable = instance.record, True
        if instance.failure is not None:
            # It may never have been read.
            try:
                record = await asyncio.to_thread(load_record, instance.directory, instance.name)
            except LogshipError:
                is_readable = False
        return rules.OnDisk(is_readable, record.fence is not None, restores)


@contextlib.contextmanager
def _leaving(instance: Instance) -> Iterator[None]:
    """From here on nothing is taken for it, and no promotion of it begins; unless the block
    fails."""
    instance.leaving = LogshipError(
        Code.UNKNOWN_INSTANCE, f"{instance.name} is being removed", "it is not protected here"
    )
    try:
        yield
    except BaseException:
        instance.leaving = None
        raise


def describe_fleet(declared: ApplierSettings, registered: Registered) -> list[dict[str, Any]]:
    """See `applier.fleet.report.describe`.  Blocking."""
    places: dict[str, IncarnationPlaces | None] = {}
    for name in declared.instances.keys() | registered.entries.keys():
        with contextlib.suppress(LogshipError):  # the instance says it
            places[name] = known_places(declared.directory, name)
    return describe(declared, registered, places)


def _may_run_on(instance: Instance) -> Sequence[Installation]:
    """The installation of its standby, or those that it may be, oldest first."""
    used, profile = instance.following.installation, instance.record.profile
    if used is not None:
        return [used]
    found = instance.host.installations
    return [each for each in found if profile is None or each.major == profile.major]


def _refuse_while_promoting(instance: Instance) -> None:
    if instance.promotion_turn.locked():
        raise RefusedError(
            Code.PROMOTE_REFUSED,
            f"a promotion of {instance.name}, or a change of its standby, is running",
            f"wait for it: shipper status {instance.name} shows how far it is",
        )


def _is_bucket(settings: ApplierSettings) -> bool:
    """Whether the kept seeds stand in a directory that is a bucket too: nothing of that goes
    with an instance."""
    bucket = settings.bucket
    return bucket is not None and bucket.place.directory == settings.seeds_directory
