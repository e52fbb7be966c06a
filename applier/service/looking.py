"""Looking, now and then, at what standbys run on and into the standbys that run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from applier.operations.host import Host
from applier.operations.instance import Instance
from applier.standby.packages import PackageWatch

log = structlog.get_logger(__name__)

CHECK_AT_ONCE = 16
"""Instances that are checked again at the same time: one whose server is slow to start must not
keep all others waiting."""
CHECK_AGAIN_SECONDS = 60.0
"""How long an instance that is checked again, and may be started by that, keeps its turn: it goes
on by itself then."""
LOOK_PAUSE_SECONDS = 2.0
"""Between two rounds of asking which running standby is to be looked into."""


class Looking:
    """instances: that are open, as they come and go.  packages: what it saw before anybody looked
    which installations there are, so that what is installed meanwhile counts as a change."""

    def __init__(
        self, host: Host, instances: Mapping[str, Instance], packages: PackageWatch
    ) -> None:
        self._host = host
        self._instances = instances
        self._packages = packages

    def keep(self) -> None:
        """From now on, for as long as the host's work goes on."""
        self._host.spawn(self.keep_looking_at_packages())
        self._host.spawn(self._keep_looking_into_standbys())

    async def keep_looking_at_packages(self) -> None:
        host = self._host
        while True:
            await asyncio.sleep(host.settings.postgres.look_seconds)
            if self._packages.look(await asyncio.to_thread(host.packages)):
                await self.packages_changed()
            elif majors := await asyncio.to_thread(host.take_unanswered_majors):
                await self._ask_again(majors)

    async def packages_changed(self) -> None:
        """Check every instance again, on what is installed now."""
        host = self._host
        await host.discover()
        found = [f"{one.version} in {one.bin_dir}" for one in host.installations]
        log.info("installed software changed: the versions are checked again", found=found)
        await self._check_again(list(self._instances.values()))

    async def _ask_again(self, majors: set[int]) -> None:
        """Check the instances again that would run on an installation that did not answer."""
        concerned = [
            instance
            for instance in self._instances.values()
            if (profile := instance.record.profile) is not None and profile.major in majors
        ]
        if not concerned:
            return
        names = [instance.name for instance in concerned]
        log.info("an installation did not answer: it is asked again", instances=names)
        await self._check_again(concerned)

    async def _check_again(self, instances: Sequence[Instance]) -> None:
        turns = asyncio.Semaphore(CHECK_AT_ONCE)

        async def check_in_turn(instance: Instance) -> None:
            async with turns:
                if self._instances.get(instance.name) is not instance:
                    return  # it was removed meanwhile
                # The instance's own work: it ends when that is removed.
                checking = instance.spawn(instance.following.check_again(start=True))
                await asyncio.wait({checking}, timeout=CHECK_AGAIN_SECONDS)

        await asyncio.gather(*map(check_in_turn, instances))

    async def _keep_looking_into_standbys(self) -> None:
        while True:
            await asyncio.sleep(LOOK_PAUSE_SECONDS)
            for instance in list(self._instances.values()):
                if instance.following.is_look_due():
                    await asyncio.wait({instance.spawn(instance.following.look())})
