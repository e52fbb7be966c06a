"""Which cluster an instance is: after pg_upgrade its name stays, and the cluster is another one.

There is one of them at a time: whichever is taken up gets the instance's name in the WAL server,
its port and its socket.  What it was is kept, stopped (`former`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from applier.fleet.places import Volumes, check_mounted
from applier.fleet.volumes import place
from applier.operations.admission import Standing, check_same_segments, standing_of
from applier.operations.kept_incarnations import as_before, left_behind, replaced
from applier.operations.record import Fence, InstanceRecord, KeptIncarnation, kept_of
from logship.errors import Code, LogshipError, RefusedError
from logship.frames import Hello
from logship.identity import Incarnation, Profile
from logship.postgres.process import stop_server

if TYPE_CHECKING:
    from applier.operations.instance import Instance

log = structlog.get_logger(__name__)


MISMATCHES = (
    Code.SYSTEM_IDENTIFIER_MISMATCH,
    Code.MAJOR_MISMATCH,
    Code.SEGMENT_SIZE_MISMATCH,
)


TAKE_UP_AGAIN_SECONDS = 10.0


class Incarnations:
    """Of one instance."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.turn = asyncio.Lock()
        """Held while a sender is let in, or a cluster takes another one's place."""

    # --- who comes ----------------------------------------------------------------------------

    async def admit(self, hello: Hello) -> None:
        """Let in the cluster of `hello`, in the place of another one if it may take that.  Call
        it with `turn` held.  Raises LogshipError: it is refused, or can't be now."""
        instance = self._instance
        try:
            standing = self._standing_of(hello.profile)
        except RefusedError as error:
            # The one who can let it in reads the status here, not the shipper's log.
            instance.alarms.raise_error(error)
            raise
        if standing is Standing.SUCCESSOR:
            await self._succeed(hello)
        elif standing is Standing.IN_PLACE_OF_NOTHING:
            log.warning(
                "forgetting a cluster that never shipped anything",
                cluster=str(instance.record.incarnation),
            )
            await instance.keeping.close()
            instance.sender.begin_anew(None)
            await instance.remember(
                incarnation=None,
                profile=None,
                volumes=Volumes(),
                heard=None,
                held_lsn=None,
                lacking=(),
                installation="",
            )
        for code in MISMATCHES:
            instance.alarms.clear(code)

    def _standing_of(self, profile: Profile) -> Standing:
        """Raises RefusedError."""
        instance = self._instance
        store = instance.store
        has_standby = instance.following.placed is not None
        is_empty = store is not None and store.start is None and not has_standby
        standing = standing_of(
            profile.incarnation, instance.record, is_empty=is_empty, has_standby=has_standby
        )
        kept = kept_of(instance.record, profile.incarnation)
        if standing is Standing.SAME:
            check_same_segments(instance.record.profile, profile)
        elif kept is not None:
            check_same_segments(kept.profile, profile)
        return standing

    def why_refused(self, profile: Profile) -> LogshipError | None:
        """What a sender with this primary would be refused with now; None: it would be let in."""
        instance = self._instance
        if instance.failure is not None:
            return instance.failure
        if instance.record.fence is not None:
            return RefusedError(
                Code.FENCED,
                f"{instance.name} is here already, and it was promoted",
                f"to protect this primary choose another name; shipper status {instance.name} "
                "shows the promotion",
            )
        try:
            self._standing_of(profile)
        except LogshipError as error:
            return error
        return None

    async def _succeed(self, hello: Hello) -> None:
        instance, profile = self._instance, hello.profile
        if not hello.primary_reachable:
            raise LogshipError(
                Code.PRIMARY_NOT_READY,
                f"cluster {profile.incarnation} takes another one's place once it is reached",
                "start it",
                retryable=True,
            )
        await instance.host.discover()  # its PostgreSQL may have been installed since the start
        self._refuse_while_occupied()
        async with instance.promotion_turn:
            log.warning(
                "another cluster takes this one's place",
                instance=instance.name,
                cluster=str(profile.incarnation),
                kept=str(instance.record.incarnation),
            )
            why = LogshipError(
                Code.LINK_LOST, "another cluster takes this one's place", retryable=True
            )
            instance.tell_failed(why)
            # What is kept was written by the primary as it is known.  Whether the one that comes
            # now writes what is next is seen once its WAL is there to compare with.
            kept = kept_of(instance.record, profile.incarnation)
            known = kept.profile if kept is not None else profile
            await instance.host.to_the_end(self._change_to(known), instance.name)

    def _refuse_while_occupied(self) -> None:
        instance = self._instance
        if instance.promotion_turn.locked():
            raise LogshipError(
                Code.INSTANCE_BUSY, "an operator is just at work on its standby", retryable=True
            )
        if not instance.arrival.give_up_abandoned(connected=False):
            raise LogshipError(
                Code.SEED_FAILED, "a seed is just being put in place", retryable=True
            )

    # --- from one to the other ----------------------------------------------------------------

    async def go_back(self, incarnation: Incarnation) -> None:
        """Take up what is kept of an older cluster, fenced with the same write, to promote it.

        Call it with the instance's `promotion_turn` held.  Raises RefusedError (nothing was
        changed), or LogshipError: it can't be, nothing is fenced, and the instance is what it was.
        """
        instance = self._instance
        await instance.host.discover()  # what was removed since, or installed for this
        async with self.turn:
            before = instance.record
            kept, newer = await self._promotable(incarnation), before.incarnation
            assert newer is not None, "something was before it"
            left = left_behind(newer, kept.at)
            if not instance.arrival.give_up_abandoned(connected=False):
                raise RefusedError(
                    Code.PROMOTE_REFUSED,
                    f"a seed of {instance.name} is just being put in place",
                    "try again in a moment",
                )
            instance.tell_failed(
                LogshipError(Code.LINK_LOST, "an older cluster is promoted", retryable=True)
            )
            fence = Fence(at=time.time(), reason="promotion", left=left)
            await instance.host.to_the_end(self._go_back(kept, before, fence), instance.name)

    async def _go_back(self, kept: KeptIncarnation, before: InstanceRecord, fence: Fence) -> None:
        instance = self._instance
        try:
            await self._change_to(kept.profile, fence)
        except LogshipError:
            # What can't be used must not keep out the cluster that is protected now.
            if instance.failure is not None and instance.record.fence == fence:
                with contextlib.suppress(LogshipError):  # it is alarmed, and tried again
                    await self._undo(before)
            raise

    async def _undo(self, before: InstanceRecord) -> None:
        instance = self._instance
        assert before.incarnation is not None
        async with instance.keeping.turn:
            await instance.leave_cluster()
            await self._become(before.incarnation, lambda _: as_before(before))
            await self._take_up()

    async def _promotable(self, incarnation: Incarnation) -> KeptIncarnation:
        instance = self._instance
        kept = kept_of(instance.record, incarnation)
        if kept is None or kept.is_removed:
            known = ", ".join(
                str(each.incarnation) for each in instance.record.previous if not each.is_removed
            )
            raise RefusedError(
                Code.PROMOTE_REFUSED,
                f"{instance.name} keeps nothing of cluster {incarnation}",
                f"kept are: {known or 'none'}",
            )
        if all(one.major != incarnation.major for one in instance.host.installations):
            raise RefusedError(
                Code.PROMOTE_REFUSED,
                f"no PostgreSQL {incarnation.major} is here any more to run {incarnation}",
                "install it again",
            )
        places = instance.places_of(incarnation, kept.volumes)
        try:
            await asyncio.to_thread(check_mounted, places, kept.volumes)
        except LogshipError as error:
            raise RefusedError(Code.PROMOTE_REFUSED, error.what, error.hint) from error
        return kept

    async def _change_to(self, profile: Profile, fence: Fence | None = None) -> None:
        """If it fails the instance goes on with whichever its record names."""
        instance = self._instance
        placed = instance.following.placed
        store = instance.store
        end = store.durable_of(placed.seed_id) if store is not None and placed is not None else None
        await instance.sender.save_heard()
        incarnation = profile.incarnation
        # What could not be opened may have one, and is not to be thrown away unseen.
        has_standby = placed is not None or instance.failure is not None
        chosen = Volumes()
        if kept_of(instance.record, incarnation) is None:
            places = instance.host.places(instance.name)
            chosen = await asyncio.to_thread(place, instance.host.settings, places, incarnation)

        def changes_of(record: InstanceRecord) -> dict[str, Any]:
            changes = replaced(
                record,
                profile,
                volumes=chosen,
                now=time.time(),
                durable=str(end) if end is not None else "",
                has_standby=has_standby,
                for_promotion=fence is not None,
                left=fence.left if fence is not None else "",
            )
            return changes if fence is None else changes | {"fence": fence}

        async with instance.keeping.turn:
            try:
                await instance.arrival.give_up("another cluster takes this one's place")
                # Who still waits for its server need not, and must not start it again.
                instance.following.placed = None
                await instance.following.stop()
                # One that nothing installed can run, or that is not known, may run all the same.
                await asyncio.to_thread(stop_server, instance.places.standby / "data", "fast")
                await instance.keeping.close()
                await self._become(incarnation, changes_of)
            finally:
                await instance.leave_cluster()
                await self._take_up()
        instance.former.go_on_removing()

    async def _take_up(self) -> None:
        instance = self._instance
        try:
            await instance.take_up_cluster()
        except (LogshipError, OSError) as error:
            # Nothing may be received while its standby is not known: it would be seeded anew.
            instance.failure = (
                error
                if isinstance(error, LogshipError)
                else LogshipError(Code.STORE_FAILED, f"its files can't be used: {error}")
            )
            instance.alarms.raise_error(instance.failure)
            instance.spawn(self._take_up_again())
            raise instance.failure from error
        instance.failure = None

    async def _take_up_again(self) -> None:
        await asyncio.sleep(TAKE_UP_AGAIN_SECONDS)
        async with self._instance.keeping.turn:
            failure = self._instance.failure
            if failure is None:
                return  # somebody else did it, or another cluster was taken up
            await self._instance.leave_cluster()
            with contextlib.suppress(LogshipError):  # it is tried again
                await self._take_up()
                self._instance.alarms.clear(failure.code)

    async def _become(
        self, incarnation: Incarnation, changes_of: Callable[[InstanceRecord], dict[str, Any]]
    ) -> None:
        instance = self._instance
        before, kept = instance.sender.heard, kept_of(instance.record, incarnation)
        # First: what is written down from now on of what was heard must be of the new one.
        instance.sender.begin_anew(kept.heard if kept is not None else None)
        try:
            await instance.revise(changes_of)
        except LogshipError:
            instance.sender.begin_anew(before)
            raise
        instance.gaps.over()
        instance.alarms.clear_all()

    async def accept(self, incarnation: Incarnation) -> dict[str, Any]:
        """Let that cluster take the place of the one that this is, when it comes."""
        instance = self._instance
        if instance.record.fence is not None:
            raise RefusedError(
                Code.FENCED,
                f"{instance.name} was promoted, or is being promoted: nothing comes in any more",
                "a cluster that takes its place is protected under another name",
            )
        if incarnation == instance.record.incarnation:
            raise RefusedError(
                Code.USAGE, f"{instance.name} is cluster {incarnation} already", "nothing to do"
            )
        await instance.remember(accepted=incarnation)
        instance.bucket.look_again()
        return {"name": instance.name, "accepted": str(incarnation)}
