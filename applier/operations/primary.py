"""The primary of one instance, as its senders tell of it: who it is, and how it is set up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from applier.fleet import volumes
from applier.operations.admission import check_profile, check_same_segments, mismatch
from applier.receivers import Resume
from logship.frames import Hello
from logship.identity import Incarnation, Profile

if TYPE_CHECKING:
    from applier.operations.instance import Instance


class Primary:
    """What the record has of it; the standby hears of a change before any WAL that comes after.

    Methods raise as those of `applier.receivers.Intake` do.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    async def admit(
        self, hello: Hello, *, believed: bool | None = None, from_bucket: bool = False
    ) -> Resume:
        """Look whether the sender's cluster is ours, and where the sender goes on.

        believed: whether its profile counts; None: as it is on a link.  Raises as `hello`, also
        if a fence came meanwhile; who is not told of one from then on must not wait after this.
        """
        instance = self._instance
        instance.check_usable()
        instance.check_fence()
        check_profile(hello.profile)
        async with instance.incarnations.turn:
            instance.check_usable()
            instance.check_fence()
            await instance.incarnations.admit(hello)
            return await self._admit(hello, believed, from_bucket)

    async def _admit(self, hello: Hello, believed: bool | None, from_bucket: bool) -> Resume:
        instance = self._instance
        profile = hello.profile
        if instance.record.profile is None:
            await self._remember(hello)
        # Of its own: cut off in the middle, an opened store would hold its lock for ever.
        await instance.host.to_the_end(instance.keeping.ensure(profile), instance.name)
        await instance.keeping.settle()
        if instance.sender.is_believed(hello) if believed is None else believed:
            await self._remember(hello)
            await instance.following.primary_changed(profile)
        # Who has no primary has no seed to begin either, and gives up nobody else's.
        resuming = not hello.primary_reachable or await instance.arrival.keep_or_give_up(
            hello.seed_id, from_bucket=from_bucket
        )
        instance.check_fence()
        placed = instance.following.placed
        store = instance.opened_store
        seeder = instance.arrival.seeder
        same = seeder is not None and seeder.seed_id == hello.seed_id
        return Resume(
            position=store.durable,
            known_timelines=tuple(store.histories()),
            seed_wanted=instance.arrival.is_wanted(from_bucket=from_bucket) and not resuming,
            seed_id=seeder.seed_id if seeder is not None and same else "",
            seed_sequence=seeder.next_sequence if seeder is not None and same else 0,
            seed_done=placed is not None and placed.seed_id == hello.seed_id,
        )

    async def _remember(self, hello: Hello) -> None:
        instance = self._instance
        profile = hello.profile
        changes: dict[str, object] = {"profile": profile, "protection": hello.protection}
        if profile.incarnation != instance.record.incarnation:
            await instance.host.to_the_end(
                self._settle_down(profile.incarnation, changes), instance.name
            )
        elif profile != instance.record.profile or hello.protection != instance.record.protection:
            await instance.remember(**changes)

    async def _settle_down(self, incarnation: Incarnation, changes: dict[str, object]) -> None:
        """Its volumes are remembered with an incarnation: it is never looked for elsewhere."""
        instance = self._instance
        host = instance.host
        # Who comes by the other road meanwhile must not choose again.
        async with instance.keeping.turn:
            instance.check_usable()
            if instance.record.incarnation == incarnation:
                return
            chosen = await asyncio.to_thread(
                volumes.place, host.settings, host.places(instance.name), incarnation
            )
            await instance.remember(incarnation=incarnation, volumes=chosen, **changes)

    async def profile(self, profile: Profile) -> None:
        instance = self._instance
        instance.check_fence()
        check_profile(profile)
        self._check_same_cluster(profile)
        if instance.sender.is_news(profile):
            await self.take_up(profile)

    def _check_same_cluster(self, profile: Profile) -> None:
        instance = self._instance
        if instance.record.incarnation != profile.incarnation:
            assert instance.record.incarnation is not None
            raise mismatch(instance.name, instance.record.incarnation, profile.incarnation)
        check_same_segments(instance.record.profile, profile)

    async def take_up(self, profile: Profile) -> None:
        """The primary is so from here on, for all WAL that comes next."""
        instance = self._instance
        instance.check_fence()
        check_profile(profile)
        self._check_same_cluster(profile)
        if profile != instance.record.profile:
            await instance.remember(profile=profile)
            await instance.following.primary_changed(profile)

    async def heed_set_aside(self, timeline: int) -> None:
        """The sender's primary may be what writes, or seeds, what comes next on `timeline`."""
        profile = self._instance.sender.taken_up(timeline)
        if profile is not None:
            await self.profile(profile)
