"""The clusters that an instance was before an upgrade: kept, until the standby of their successor
streams and a grace time is over."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from applier.fleet.places import IncarnationPlaces, Volumes, check_volumes
from applier.operations.kept_incarnations import expired, marked_for_removal, removed, streams_now
from applier.operations.record import kept_of
from applier.retention.leases import running_restores
from applier.walserver.status import StandbyState
from logship import durable, status
from logship.bucket.keys import Keys
from logship.errors import Code, LogshipError, RefusedError
from logship.identity import Incarnation
from logship.postgres.postmaster import running_postmaster

if TYPE_CHECKING:
    from applier.operations.instance import Instance

log = structlog.get_logger(__name__)

STREAMS = frozenset({StandbyState.CATCHUP, StandbyState.STREAMING, StandbyState.HELD})


class FormerClusters:
    """Of one instance: when they go, and what an operator sees of them."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._is_noting = False
        self._removing: asyncio.Task[None] | None = None

    def what_can_be_promoted(self) -> str:
        """What to do where the cluster that this is has no standby."""
        instance = self._instance
        kept = [each.incarnation for each in instance.record.previous if not each.is_removed]
        if not kept:
            return "nothing of it can be opened here"
        return (
            f"the cluster of before is kept: shipper promote {instance.name} "
            f"--incarnation {kept[-1]}"
        )

    def standby_reported(self) -> None:
        """The standby said where it is: it may stream for the first time."""
        instance = self._instance
        waiting = any(
            each.replaced_at is None and not each.for_promotion and not each.is_removed
            for each in instance.record.previous
        )
        if not waiting or self._is_noting or not self._has_arrived():
            return
        self._is_noting = True
        assert instance.record.incarnation is not None
        instance.spawn(self._note_streaming(instance.record.incarnation))

    def _has_arrived(self) -> bool:
        """Whether the standby streams, and could be opened."""
        following = self._instance.following
        placed, streamed = following.placed, following.serving.standby_status()
        return (
            placed is not None
            and streamed is not None
            and streamed.state in STREAMS
            and streamed.apply_lsn >= placed.end_lsn
        )

    async def _note_streaming(self, incarnation: Incarnation) -> None:
        instance = self._instance
        try:
            await instance.revise(lambda record: streams_now(record, incarnation, time.time()))
        finally:
            self._is_noting = False
        log.info(
            "the successor's standby streams: what was before goes after the grace time",
            instance=instance.name,
            hours=instance.host.settings.retention.previous_hours,
        )

    async def remove_expired(self) -> None:
        """What nobody needs any more goes, in the background.  What fails is alarmed: it must not
        end the turns of the other instances."""
        try:
            await self._remove_expired()
        except (LogshipError, OSError) as error:
            what = error.what if isinstance(error, LogshipError) else str(error)
            self._instance.alarms.raise_error(
                LogshipError(
                    Code.RETENTION_FAILED,
                    f"a cluster that {self._instance.name} was before can't be removed: {what}",
                    "it is tried again every hour; until then more stays than has to",
                    retryable=True,
                )
            )

    async def _remove_expired(self) -> None:
        instance = self._instance
        grace_seconds = instance.host.settings.retention.previous_hours * 3600.0
        async with instance.incarnations.turn:  # one of them may just be taken up again
            chosen = expired(instance.record, time.time(), grace_seconds)
            if instance.record.fence is None and chosen:
                if await asyncio.to_thread(running_restores, instance.directory):
                    return  # one of them may read it
                await self._mark(chosen)
        self.go_on_removing()

    async def forget(self, incarnation: Incarnation | None) -> dict[str, Any]:
        """Remove what is kept of one, or (None) of all whose successor streams.

        Returns when that is decided, durably.  Raises RefusedError.
        """
        instance = self._instance
        async with instance.incarnations.turn:  # one of them may just be taken up again
            chosen = self._chosen(incarnation)
            await asyncio.to_thread(self._refuse_while_used, chosen)
            await self._mark(chosen)
        self.go_on_removing()
        return {"name": instance.name, "forgotten": [str(each) for each in chosen]}

    def _chosen(self, incarnation: Incarnation | None) -> list[Incarnation]:
        instance = self._instance
        kept = [each for each in instance.record.previous if not each.is_removed]
        if incarnation is None:
            chosen = [each.incarnation for each in kept if each.replaced_at is not None]
        else:
            chosen = [each.incarnation for each in kept if each.incarnation == incarnation]
        if not chosen:
            wanted = "a cluster that is not needed any more" if incarnation is None else incarnation
            known = ", ".join(str(each.incarnation) for each in kept)
            raise RefusedError(
                Code.USAGE,
                f"{instance.name} keeps nothing of {wanted}",
                f"kept are: {known or 'none'}"
                + (
                    "; one whose successor does not stream yet goes only if it is named"
                    if known
                    else ""
                ),
            )
        return chosen

    def _refuse_while_used(self, chosen: list[Incarnation]) -> None:
        """Blocks."""
        instance = self._instance
        if running_restores(instance.directory):
            raise RefusedError(
                Code.INSTANCE_BUSY,
                f"a restore of {instance.name} is running, and may read it",
                "wait for its end",
            )
        for each in chosen:
            found = running_postmaster(self._places_of(each).standby / "data")
            if found is not None:
                raise RefusedError(
                    Code.INSTANCE_BUSY,
                    f"a server runs on what is kept of {each}, process {found.pid}",
                    "stop it first",
                )

    async def _mark(self, chosen: list[Incarnation]) -> None:
        await self._instance.revise(lambda record: marked_for_removal(record, chosen))

    def _places_of(self, incarnation: Incarnation) -> IncarnationPlaces:
        instance = self._instance
        kept = kept_of(instance.record, incarnation)
        return instance.places_of(incarnation, kept.volumes if kept is not None else Volumes())

    @property
    def is_removing(self) -> bool:
        return self._removing is not None and not self._removing.done()

    def go_on_removing(self) -> None:
        """Remove what is marked, also what a crash left of it."""
        if not self.is_removing:
            self._removing = self._instance.spawn(self._remove_marked())

    async def _remove_marked(self) -> None:
        instance = self._instance
        failures: dict[Incarnation, LogshipError | OSError] = {}
        while True:
            marked = [each.incarnation for each in instance.record.previous if each.is_removed]
            incarnation = next((each for each in marked if each not in failures), None)
            if incarnation is None:
                break
            try:
                await asyncio.get_running_loop().run_in_executor(
                    instance.host.removals, self._remove, incarnation
                )
            except (LogshipError, OSError) as error:
                failures[incarnation] = error  # the others go all the same
                continue
            await instance.revise(partial(removed, incarnation=incarnation))
            log.info(
                "removed what was kept of a cluster",
                instance=instance.name,
                cluster=str(incarnation),
            )
        for cluster, failure in failures.items():
            raise LogshipError(
                Code.RETENTION_FAILED,
                f"what was kept of {cluster} can't be removed: {failure}",
                "it is tried again every hour",
                retryable=True,
            ) from failure

    def _remove(self, incarnation: Incarnation) -> None:
        """Blocks.  Its kept seeds as well: without the WAL they lead nowhere."""
        instance = self._instance
        kept_files = kept_of(instance.record, incarnation)
        check_volumes([kept_files.volumes] if kept_files is not None else [])
        for directory in self._places_of(incarnation):
            durable.remove_tree(directory)
        kept = instance.arrival.kept
        if kept.keep:
            keys = [info.key for info in kept.store.listing(Keys(instance.name, incarnation).root)]
            kept.store.delete(keys)

    # --- what an operator sees ----------------------------------------------------------------

    def status(self) -> list[status.PreviousStatus]:
        """What is kept, as the status document shows it."""
        grace_seconds = self._instance.host.settings.retention.previous_hours * 3600.0
        return [
            {
                "system_identifier": str(each.incarnation.system_identifier),
                "major": each.incarnation.major,
                "since": each.at,
                "durable": each.durable or None,
                "replaced_at": each.replaced_at,
                "removed_at": None
                if each.replaced_at is None
                else each.replaced_at + grace_seconds,
            }
            for each in self._instance.record.previous
            if not each.is_removed
        ]
