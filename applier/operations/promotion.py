"""Open the standby, and say what could not be brought back.

Needs nothing but this server's own disk.  The steps, each told to `report` as it is made:

    budget   only where memory is shared out: what the server will have; told after `go back`,
             as only then it is known of which cluster
    bucket   only where one is read in place of a link: what it still has is fetched, if it answers
    go back  only to promote a cluster of before (--incarnation): it is taken up in the place of
             the one that the instance is, and fenced with the same write
    fence    durable before anything else: no byte of the old line is accepted any more
    flush    what arrived is made durable: this is what will be recovered
    receive  the standby has all of it in its own pg_wal
    replay   ... and has replayed it, as far as records go
    check    only where the standby's collations or libraries are not as its primary's
    promote  PostgreSQL opens it, and a write has succeeded
    record   what was opened and what was lost, durable

A failure before `promote` takes the fence back: nothing was opened.  After a crash in the
middle the fence stands and `resume` finishes the job.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from applier.operations.exposure import exposure_bytes
from applier.operations.instance import Instance
from applier.operations.record import Promotion
from applier.standby import Opened, Standby
from logship.errors import Code, LogshipError, RefusedError
from logship.identity import Incarnation
from logship.lsn import Lsn, Position, plain_lsn

log = structlog.get_logger(__name__)

Report = Callable[[str, dict[str, Any]], None]

PROGRESS_SECONDS = 1.0
BUCKET_SECONDS = 5.0
"""How long a promotion lets a bucket bring what it still has.  It needs none of it."""
LOOK_SECONDS = 0.2
"""How long a look into the standby is waited for before it is opened, if none was ever taken.
Else what the last one found is told, and the next one is taken once clients are served."""
LATER_LOOK_SECONDS = 5.0
"""How long that one is waited for."""
STALL_SECONDS = 60.0
"""Promotion gives up when the standby got no further for so long."""


async def promote(
    instance: Instance,
    report: Report,
    *,
    offline: bool = False,
    started_at: float | None = None,
    incarnation: Incarnation | None = None,
) -> dict[str, Any]:
    """Promote `instance`; returns its record as JSON-able data.

    started_at: when the operator asked (monotonic seconds), if that was before this call.
    incarnation: which of its clusters; None: the one that it is.  One that was interrupted is
    finished.  Raises RefusedError (nothing was changed) or LogshipError(PROMOTE_FAILED, …).
    """
    job = _Job(instance, report, offline, time.monotonic() if started_at is None else started_at)
    _refuse_if_running(instance)
    async with instance.promotion_turn:
        if instance.record.fence is not None and instance.record.promotion is None:
            return await job.resume()
        if incarnation is not None and incarnation != instance.record.incarnation:
            return await job.promote_kept(incarnation)
        return await job.promote()


async def resume(instance: Instance, report: Report) -> dict[str, Any]:
    """Finish a promotion that a crash interrupted: fenced, and no promotion on record.

    Raises as `promote`; the fence stays.
    """
    _refuse_if_running(instance)
    async with instance.promotion_turn:
        return await _Job(instance, report, False, time.monotonic()).resume()


def _refuse_if_running(instance: Instance) -> None:
    if instance.leaving is not None:
        raise RefusedError(instance.leaving.code, instance.leaving.what, instance.leaving.hint)
    if instance.promotion_turn.locked():
        raise RefusedError(
            Code.PROMOTE_REFUSED,
            f"a promotion of {instance.name}, or a change of its standby, is running already",
            f"shipper status {instance.name} shows how far it is",
        )


class _Job:
    """One promotion, from the request to its record."""

    def __init__(
        self, instance: Instance, report: Report, offline: bool, started_at: float
    ) -> None:
        self._instance = instance
        self._report = report
        self._offline = offline
        self._started_at = started_at
        self._bucket = ""

    async def promote_kept(self, incarnation: Incarnation) -> dict[str, Any]:
        """Back to a cluster of before.  A failure before `promote` takes the fence back; if its
        files could be used the instance then is the older cluster, until the sender of the newer
        one comes again."""
        instance = self._instance
        self._refuse_if_promoted()
        self._report("go back", {"to": str(incarnation)})
        try:
            await instance.incarnations.go_back(incarnation)
            self._tell_budget()
            instance.following.refuse_promotion_unless_ready()
            standby, durable = await self._bring_up_to_date()
        except BaseException:
            if instance.record.fence is not None:
                await instance.unfence()
            raise
        return await self._open(standby, durable)

    async def promote(self) -> dict[str, Any]:
        await self._instance.following.check_again()
        self._refuse_unless_possible()
        self._tell_budget()
        try:
            # What still comes is the primary's last: nothing holds it up.
            self._instance.budget.lift()
            await self._read_bucket()
        finally:
            self._instance.budget.impose()
        try:
            self._report("fence", {})
            await self._instance.fence("promotion")
            standby, durable = await self._bring_up_to_date()
        except BaseException:
            await self._instance.unfence()
            raise
        return await self._open(standby, durable)

    def _tell_budget(self) -> None:
        """Before anything is done: what the server will have."""
        memory = self._instance.budget.memory(promoted=True)
        if memory.share_mb is not None:
            self._report("budget", {"memory": f"{memory.share_mb}MB", **memory.shown()})

    async def _read_bucket(self) -> None:
        road = self._instance.bucket
        if road.is_attached and not self._instance.is_connected:
            self._report("bucket", {})
        self._bucket = await road.read_on(BUCKET_SECONDS)
        if self._bucket:
            self._report("bucket", {"unread": self._bucket})

    async def resume(self) -> dict[str, Any]:
        log.warning("finishing an interrupted promotion", instance=self._instance.name)
        following = self._instance.following
        if following.was_opened:
            return await self._open(await following.start_opened(), self._recoverable())
        return await self._open(*await self._bring_up_to_date())

    def _refuse_unless_possible(self) -> None:
        instance = self._instance
        name = instance.name
        if instance.failure is not None:
            failure = instance.failure
            raise RefusedError(failure.code, f"{name}: {failure.what}", failure.hint)
        self._refuse_if_promoted()
        instance.following.refuse_promotion_unless_ready()
        if not instance.arrival.give_up_abandoned(connected=instance.has_primary):
            raise RefusedError(
                Code.PROMOTE_REFUSED,
                f"a seed of {name} is arriving and will replace its standby",
                "wait for it, or stop its shipper to give the seed up",
            )
        self._recoverable()

    def _refuse_if_promoted(self) -> None:
        name, promotion = self._instance.name, self._instance.record.promotion
        if promotion is not None:
            raise RefusedError(
                Code.ALREADY_PROMOTED,
                f"{name} was promoted already: it opened on timeline "
                f"{promotion.opened_timeline} at {Lsn(promotion.opened_lsn)}, "
                f"port {promotion.port}",
                f"shipper status {name} shows the record",
            )

    def _recoverable(self) -> Position:
        """How far the standby can be recovered with what is durable: the end of the chain of WAL
        that its seed began, which is not the newest one while another seed arrives."""
        instance = self._instance
        store = instance.store
        if store is None:
            raise RefusedError(
                Code.PROMOTE_REFUSED,
                f"the store of {instance.name} is just being opened again",
                "try again in a moment; shipper status shows why it had to be",
            )
        placed = instance.following.placed
        durable = store.durable_of(placed.seed_id) if placed is not None else None
        if durable is None:
            raise RefusedError(
                Code.PROMOTE_REFUSED,
                f"{instance.name} has no WAL to recover with",
                "seed it first",
            )
        return durable

    # --- up to date ---------------------------------------------------------------------------

    async def _bring_up_to_date(self) -> tuple[Standby, Position]:
        instance = self._instance
        assert instance.store is not None
        await instance.store.flush()
        durable = self._recoverable()
        self._report("flush", {"durable": str(durable)})
        standby = await instance.following.ready_to_promote(durable.lsn)
        looking: asyncio.Task[None] | None = None
        if not instance.following.live.findings:
            looking = instance.spawn(instance.following.look_for_promotion())
        patience = _Patience(STALL_SECONDS)
        await self._wait_received(standby, durable, patience)
        self._report("replay", {"to": str(durable.lsn)})
        while not await standby.replayed_everything(durable.lsn, PROGRESS_SECONDS):
            await self._look(standby, patience, f"it was not replayed up to {durable.lsn}")
        if looking is not None:
            await asyncio.wait({looking}, timeout=LOOK_SECONDS)
        for warning in instance.following.warnings():
            self._report("check", {"found": warning})
        return standby, durable

    async def _wait_received(
        self, standby: Standby, durable: Position, patience: _Patience
    ) -> None:
        instance = self._instance
        while True:
            try:
                await instance.host.wal_server.wait_for_flush(
                    instance.name, durable, PROGRESS_SECONDS
                )
            except TimeoutError:
                pass
            else:
                return
            status = instance.following.serving.standby_status()
            if status is not None and status.refusal is not None:
                refusal = status.refusal
                raise LogshipError(refusal.code, refusal.what, refusal.hint)
            flushed = status.flush_lsn if status is not None else Lsn(0)
            self._report("receive", {"flushed": str(flushed), "to": str(durable.lsn)})
            await self._look(standby, patience, f"it did not receive all up to {durable.lsn}")

    async def _look(self, standby: Standby, patience: _Patience, what: str) -> None:
        """Go on while the standby gets further by any measure, slow as it may be."""
        if patience.ended(await standby.progress(), time.monotonic()):
            raise LogshipError(
                Code.PROMOTE_FAILED,
                f"the standby of {self._instance.name} does not come up to date: {what}",
                "nothing was opened; look at the standby's log, then promote again",
                retryable=True,
            )

    # --- open ---------------------------------------------------------------------------------

    async def _open(self, standby: Standby, durable: Position) -> dict[str, Any]:
        instance = self._instance
        self._report("promote", {})
        opened: Opened = await standby.promote()
        now = time.monotonic()
        heard = instance.heard
        histories = instance.store.histories() if instance.store is not None else {}
        write_seconds = opened.first_write_seconds - opened.promote_seconds
        promotion = Promotion(
            at=time.time(),
            offline=self._offline,
            opened_timeline=opened.timeline,
            opened_lsn=opened.lsn,
            durable_timeline=durable.timeline,
            durable_lsn=durable.lsn,
            heard=heard,
            lost_bytes=exposure_bytes(heard, durable, histories),
            unreplayed_bytes=max(0, durable.lsn - opened.lsn),
            promote_seconds=now - self._started_at - write_seconds,
            first_write_seconds=now - self._started_at,
            port=instance.settings.port,
            bucket=self._bucket,
            left=instance.record.fence.left if instance.record.fence is not None else "",
            warnings=instance.following.warnings(),
        )
        await instance.remember(promotion=promotion, heard=heard)
        instance.bucket.wake()
        instance.following.serving.withdraw()
        memory = await instance.following.promoted.take_memory()
        complaints = await instance.following.promoted.admit_clients()
        promotion = await self._remember_warnings(promotion)
        answer: dict[str, Any] = msgspec.to_builtins(promotion, enc_hook=plain_lsn)
        answer |= {"opened_lsn": str(opened.lsn), "durable_lsn": str(durable.lsn)}
        answer["lost"] = describe_loss(promotion)
        answer["complaints"] = list(complaints)
        answer["memory"] = memory
        self._report("record", {})
        log.warning("promoted", instance=instance.name, lost=answer["lost"], port=promotion.port)
        return answer

    async def _remember_warnings(self, promotion: Promotion) -> Promotion:
        """As they are now; clients do not wait for it."""
        looking = self._instance.spawn(self._instance.following.look_for_promotion())
        await asyncio.wait({looking}, timeout=LATER_LOOK_SECONDS)
        warnings = self._instance.following.warnings()
        if warnings != promotion.warnings:
            promotion = msgspec.structs.replace(promotion, warnings=warnings)
            try:
                await self._instance.remember(promotion=promotion)
            except LogshipError as error:
                # It is open, and that is on record.
                log.warning("the promotion's warnings are not on record", **error.as_dict())
        return promotion


class _Patience:
    """Ends when what it is shown has not changed for `stall_seconds`."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._marks: tuple[object, ...] = ()
        self._since = 0.0

    def ended(self, marks: tuple[object, ...], now: float) -> bool:
        if marks != self._marks or not self._since:
            self._marks, self._since = marks, now
        return now - self._since >= self._stall_seconds


def describe_loss(promotion: Promotion) -> str:
    """The loss in one sentence that is true."""
    parts = (_loss(promotion), promotion.bucket, promotion.left)
    return "; ".join(part for part in parts if part)


def _loss(promotion: Promotion) -> str:
    heard = promotion.heard
    if heard is None:
        return "not known: the primary's own position was never heard here"
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(heard.at))
    last = (
        f"the primary was last heard at {when} with {Lsn(heard.lsn)} on timeline {heard.timeline}"
    )
    durable = f"durable here was {Lsn(promotion.durable_lsn)} on {promotion.durable_timeline}"
    if promotion.lost_bytes is None:
        return f"not known: {last}, {durable}, and how the two are related is not known"
    if promotion.lost_bytes:
        return f"{promotion.lost_bytes} bytes of WAL: {last}, {durable}"
    sentence = f"nothing that was known: {last}, and all of it was durable here"
    if promotion.unreplayed_bytes:
        sentence += (
            f"; its last {promotion.unreplayed_bytes} bytes are no complete record and were "
            "not replayed"
        )
    return sentence + "; what it wrote after that is not known"
